"""The order of plans: best first, and of those that are equally good the simplest first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.specs import Configuration

# Sums of the same times in another order differ by less than this share.
_ROUNDING = 1e-9


def best_first(configurations: Sequence[Configuration], *keys: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices that sort by the keys, the first one first, the smallest value first.

    Where all keys are equal but for rounding, the least context, tensor and pipeline parallelism comes first.
    keys: [configurations] each, finite.
    """
    sizes = np.array([(c.parallel.pp, c.parallel.tp, c.parallel.cp) for c in configurations], dtype=np.int64)
    # lexsort's last key is its first criterion.
    return np.lexsort((*sizes.T, *(_places(key) for key in reversed(keys))))


def _places(key: NDArray[np.float64]) -> NDArray[np.int64]:
    """The place of each value among all, from 0; values that differ by rounding alone share one."""
    order = np.argsort(key, kind="stable")
    ascending = key[order]
    further = np.diff(ascending) > _ROUNDING * np.abs(ascending[1:])
    places = np.zeros(len(key), dtype=np.int64)
    places[order[1:]] = np.cumsum(further)
    return places
