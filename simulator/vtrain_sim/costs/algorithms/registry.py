"""The algorithms that are known, and the fastest of them."""

from __future__ import annotations

from vtrain_sim.costs.algorithms.base import Algorithm
from vtrain_sim.costs.paths import Path
from vtrain_sim.errors import UserError, nearest
from vtrain_sim.extensions import load_extensions

ENTRY_POINTS = "vtrain.algorithms"
_ALGORITHMS: dict[str, Algorithm] = {}


def register(algorithm: Algorithm) -> None:
    """Add an algorithm, or replace the one of the same name."""
    _ALGORITHMS[algorithm.name] = algorithm


def fastest_s(op: str, nbytes: int, path: Path) -> float:
    """Seconds of the fastest algorithm that runs `op` over a path; raises `UserError` where none does."""
    load_extensions(ENTRY_POINTS, register)
    times = [a.seconds(op, nbytes, path) for a in _ALGORITHMS.values() if op in a.ops and a.applies(path)]
    if not times:
        known = sorted({name for algorithm in _ALGORITHMS.values() for name in algorithm.ops})
        raise UserError(f"no algorithm runs {op!r}{nearest(op, known)}: known are {', '.join(known)}")
    return min(times)
