"""Counts names over the windows of a trace."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vtrain_sim.ingest.trace import Ints


class Tally:
    """How often each of a trace's names was counted."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._counts = np.zeros(len(names), dtype=np.int64)
        self._first = np.full(len(names), np.iinfo(np.int64).max)

    def add(self, names: Ints, order: Ints) -> None:
        """Count names, each with its place in an order of all."""
        np.add.at(self._counts, names, 1)
        np.minimum.at(self._first, names, order)

    @property
    def total(self) -> int:
        """How many were counted."""
        return int(self._counts.sum())

    def most(self, count: int) -> list[str]:
        """The names that were counted most often; of two that are as frequent, the one that came first."""
        used = np.flatnonzero(self._counts)
        return [self._names[n] for n in used[np.lexsort((self._first[used], -self._counts[used]))][:count].tolist()]
