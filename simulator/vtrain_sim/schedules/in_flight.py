"""How many microbatches a stage holds, at the moments at which that can take most memory.

Activations live from the forward pass to the pass that makes the weight gradients. What a stage holds at its peak
depends on how large the activations of its chunks are: a schedule gives every moment that can be the peak.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.schedules.passes import FORWARD, Pass, produces_gradients

Floats = NDArray[np.float64]


def in_flight_after_forward(order: Sequence[Pass], chunks: int, splits_backward: bool) -> Floats:
    """[forward passes, chunks] microbatches of each chunk that a stage holds after each of its forward passes."""
    counts = [0] * chunks
    rows = []
    for one in order:
        if one.kind == FORWARD:
            counts[one.chunk] += 1
            rows.append(list(counts))
        elif produces_gradients(one.kind, splits_backward):
            counts[one.chunk] -= 1
    return np.array(rows, dtype=np.float64)


def moments_of(stages: Iterable[Floats]) -> Floats:
    """[moments, places] from what each stage holds after its forward passes, [passes, chunks] each.

    Stages are independent: a row has a moment of each, and those with fewer of them repeat their last one.
    """
    peaks = [_peaks(counts) for counts in stages]
    most = max(map(len, peaks))
    filled = [np.concatenate([counts, np.repeat(counts[-1:], most - len(counts), axis=0)]) for counts in peaks]
    moments: Floats = np.stack(filled, axis=2).reshape(most, -1)
    return moments


def _peaks(counts: Floats) -> Floats:
    """The rows that can be the largest, whatever the chunks weigh; in their order."""
    if counts.shape[1] == 1:
        return counts[[np.argmax(counts)]]
    steps = np.diff(counts, axis=0)
    # Between the ends of a straight line nothing is larger than at one of them.
    corner = np.ones(len(counts), dtype=bool)
    corner[1:-1] = (steps[1:] != steps[:-1]).any(axis=1)
    rows = np.array(list(dict.fromkeys(map(tuple, counts[corner].tolist()))))
    exceeded = (rows[None, :, :] >= rows[:, None, :]).all(axis=2).sum(axis=1) > 1
    kept: Floats = rows[~exceeded]
    return kept
