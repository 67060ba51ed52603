"""The frontier of size, days and dollars."""

from __future__ import annotations

import math
from collections.abc import Iterable

from vtrain_sim.decide.sizing.result import Candidate

# Days and dollars closer than this are the same.
_SAME = 1e-9


def frontier(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Candidates that no other one beats: as large, as soon and as cheap. Smallest first, then soonest.

    Size is counted in the parameters that a token uses. Where no price is known all cost 0, and days alone count.
    """
    kept: list[Candidate] = []
    for c in sorted(candidates, key=lambda c: (-c.active_parameters, c.days, c.cost_usd)):
        # What is kept already is as large.
        if math.isfinite(c.days) and not any(_beats(other, c) for other in kept):
            kept.append(c)
    return tuple(sorted(kept, key=lambda c: (c.active_parameters, c.days)))


def _beats(one: Candidate, other: Candidate) -> bool:
    """Whether one is as soon and as cheap as another."""
    return one.days <= other.days * (1 + _SAME) and one.cost_usd <= other.cost_usd * (1 + _SAME)
