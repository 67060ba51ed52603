"""How the layout that a job has ranks among those that a search found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vtrain_sim.inputs.megatron_emit import emit_flags
from vtrain_sim.results import Document
from vtrain_sim.specs import Configuration

if TYPE_CHECKING:
    from vtrain_sim.decide.plan_result import Plan


@dataclass(frozen=True)
class OwnLayout:
    """The layout of the job whose model was planned, projected on the same machine as the plans.

    name: of the job. rank: 1 where no plan is better, 2 where one is, ...; None where it cannot be ranked, for the
    reason that `verdict` says. at_least: more may be better, as the search left out what is not among its best. best:
    the configuration of the best plan.
    """

    name: str
    plan: Plan
    rank: int | None
    verdict: str
    best: Configuration
    at_least: bool = False

    @property
    def changes(self) -> dict[str, tuple[str | None, str | None]]:
        """Megatron's flags that the best plan has otherwise, as (here, there); None: not given."""
        return changed_flags(self.plan.projection.configuration, self.best)

    def to_dict(self) -> Document:
        """The layout in the machine-readable result."""
        changes = {flag: list(values) for flag, values in self.changes.items()}
        return {
            "name": self.name,
            "rank": self.rank,
            "rank_at_least": self.at_least,
            "verdict": self.verdict,
            **self.plan.to_dict(),
            "changes_to_best": changes,
        }


def changed_flags(here: Configuration, there: Configuration) -> dict[str, tuple[str | None, str | None]]:
    """Megatron's flags that two configurations do not have in common, with what follows them; None: not given."""
    a, b = _by_flag(emit_flags(here)), _by_flag(emit_flags(there))
    return {flag: (a.get(flag), b.get(flag)) for flag in {**a, **b} if a.get(flag) != b.get(flag)}


def _by_flag(tokens: Sequence[str]) -> Mapping[str, str]:
    flags: dict[str, str] = {}
    flag = ""
    for token in tokens:
        if token.startswith("--"):
            flag = token
            flags[flag] = ""
        else:
            flags[flag] = f"{flags[flag]} {token}".strip()
    return flags
