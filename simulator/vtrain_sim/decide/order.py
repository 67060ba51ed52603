"""The order of plans: best first, and of those that are equally good the simplest first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.specs import Configuration

# Sums of the same times in another order differ by less than this share.
ROUNDING = 1e-9


def best_first(configurations: Sequence[Configuration], *keys: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices that sort by the keys, the first one first, the smallest value first.

    Where all keys are equal but for rounding, the least context, tensor, pipeline and expert parallelism comes first,
    the fewest chunks and the smallest micro batch: in whatever order they are given. keys: [configurations] each,
    finite.
    """
    sizes = np.array([_sizes(c) for c in configurations], dtype=np.int64)
    # lexsort's last key is its first criterion.
    return np.lexsort((*sizes.T, *(_places(key) for key in reversed(keys))))


def _sizes(c: Configuration) -> tuple[int, ...]:
    """What is compared of two that are equally good, the last one first."""
    p = c.parallel
    return c.train.micro_batch_size, p.fsdp, p.vpp, p.ep, p.pp, p.tp, p.cp


def equal(ones: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which values are the same but for rounding."""
    same: NDArray[np.bool_] = np.abs(ones - others) <= ROUNDING * np.abs(others)
    return same


def without_twins(order: NDArray[np.intp], *figures: NDArray[np.float64]) -> NDArray[np.intp]:
    """An order without the places whose figures all equal those of an earlier one, but for rounding.

    A micro batch b on c context parallel ranks, for example, is often the same as 2 b on 2 c.
    """
    alike = np.array([_places(figure)[order] for figure in figures])
    _, first = np.unique(alike, axis=1, return_index=True)
    kept: NDArray[np.intp] = order[np.sort(first)]
    return kept


def undominated(costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of several in an order cost less than all before them, by more than rounding: with the order of another
    figure, those that no other one beats in both (the Pareto front)."""
    cheapest = np.minimum.accumulate(np.concatenate([[np.inf], costs]))[:-1]
    less: NDArray[np.bool_] = costs < cheapest * (1 - ROUNDING)
    return less


def _places(key: NDArray[np.float64]) -> NDArray[np.int64]:
    """The place of each value among all, from 0; values that differ by rounding alone share one."""
    order = np.argsort(key, kind="stable")
    ascending = key[order]
    further = ~equal(ascending[:-1], ascending[1:])
    places = np.zeros(len(key), dtype=np.int64)
    places[order[1:]] = np.cumsum(further)
    return places
