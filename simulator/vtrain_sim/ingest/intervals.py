"""Sets of time intervals: their union, and how much of one lies in another."""

from __future__ import annotations

import numpy as np

from vtrain_sim.ingest.trace import Ints


class Union:
    """The union of intervals [start, start + duration)."""

    def __init__(self, start: Ints, duration: Ints) -> None:
        order = np.argsort(start, kind="stable")
        begin, end = start[order], (start + duration)[order]
        if len(begin):
            reach = np.maximum.accumulate(end)
            opens = np.concatenate([[True], begin[1:] > reach[:-1]])
            self._begin = begin[opens]
            self._end = reach[np.concatenate([np.flatnonzero(opens)[1:] - 1, [len(begin) - 1]])]
        else:
            self._begin = self._end = np.empty(0, dtype=np.int64)
        self._before = np.concatenate([[0], np.cumsum(self._end - self._begin)]).astype(np.int64)

    @property
    def length(self) -> int:
        """Total length, ns."""
        return int(self._before[-1])

    def covered(self, begin: Ints, end: Ints) -> Ints:
        """How much of each interval [begin, end) lies in the union, ns."""
        return self._until(end) - self._until(begin)

    def _until(self, at: Ints) -> Ints:
        if not len(self._begin):
            return np.zeros(len(at), dtype=np.int64)
        index = np.searchsorted(self._begin, at, side="right") - 1
        inside = np.minimum(at, self._end[np.maximum(index, 0)]) - self._begin[np.maximum(index, 0)]
        return np.where(index >= 0, self._before[np.maximum(index, 0)] + inside, 0)
