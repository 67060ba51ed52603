"""Jobs that wait, in a policy's order."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heapreplace, merge
from typing import TypeAlias

from vtrain_sim.decide.fleet.running import Running

Key: TypeAlias = tuple[float | str, ...]
_Entry: TypeAlias = tuple[Key, Running]


class Queue:
    """Jobs that wait, by the GPUs that they request and in order. key: the order; it ends with the job's id, and stays
    the same while a job waits."""

    def __init__(self, key: Callable[[Running], Key]) -> None:
        self._key = key
        self._by_gpus: dict[int, list[_Entry]] = {}

    def add(self, r: Running) -> None:
        """A job that came, or lost its GPUs."""
        insort(self._by_gpus.setdefault(r.requested, []), (self._key(r), r))

    def remove(self, r: Running) -> None:
        """A job that waits no longer."""
        entries = self._by_gpus[r.requested]
        del entries[bisect_left(entries, (self._key(r),))]

    def __iter__(self) -> Iterator[Running]:
        """All, in no order."""
        return (r for entries in self._by_gpus.values() for _, r in entries)

    def first(self, running: Iterable[Running], free: int, blocking: bool) -> list[Running]:
        """Of these that run and those that wait, in order, each that fits into the free GPUs left by those before it.
        blocking: none after one that does not fit."""
        by_gpus: dict[int, list[_Entry]] = {gpus: [] for gpus, entries in self._by_gpus.items() if entries}
        for r in running:
            by_gpus.setdefault(r.requested, []).append((self._key(r), r))
        streams = [merge(sorted(own), self._by_gpus.get(gpus, ())) for gpus, own in by_gpus.items()]
        heads = [(*next(stream), stream) for stream in streams]
        heapify(heads)
        chosen = []
        while heads and free:
            _, r, stream = heads[0]
            if r.requested <= free:
                free -= r.requested
                chosen.append(r)
                following = next(stream, None)
            elif blocking:
                break
            else:  # nor does any other that requests as many
                following = None
            if following:
                heapreplace(heads, (*following, stream))
            else:
                heappop(heads)
        return chosen
