"""Jobs that wait, in a policy's order."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import heapify, heappop, heapreplace, merge
from typing import TypeAlias

from vtrain_sim.decide.fleet.running import Running

Key: TypeAlias = tuple[float | str, ...]
_Entry: TypeAlias = tuple[Key, Running]
_Group: TypeAlias = tuple[str, int]  # tenant, GPUs requested


def by_arrival(r: Running) -> Key:
    """First in, first out."""
    return r.job.arrival_s, r.job.job_id


def by_deadline(r: Running) -> Key:
    """The nearest deadline first, then the arrival."""
    return r.job.deadline_s, *by_arrival(r)


class Queue:
    """Jobs that wait, by the GPUs that they request (and by tenant, where tenants have quotas) and in order.

    key: the order; it ends with the job's id, and stays the same while a job waits. quotas: GPUs of each tenant.
    """

    def __init__(self, key: Callable[[Running], Key], quotas: Mapping[str, int] | None = None) -> None:
        self._key, self._quotas = key, quotas or {}
        self._groups: dict[_Group, list[_Entry]] = {}
        self._length = 0

    def add(self, r: Running) -> None:
        """A job that came, or lost its GPUs."""
        insort(self._groups.setdefault(self._group(r), []), (self._key(r), r))
        self._length += 1

    def remove(self, r: Running) -> None:
        """A job that waits no longer."""
        entries = self._groups[self._group(r)]
        del entries[bisect_left(entries, (self._key(r),))]
        self._length -= 1

    def __iter__(self) -> Iterator[Running]:
        """All, in no order."""
        return (r for entries in self._groups.values() for _, r in entries)

    def __len__(self) -> int:
        return self._length

    def leading(self, free: int, since: Key = ()) -> list[Running]:
        """Of each number of GPUs requested, those that are before `since` in the order, and of the others the first
        that would all fit into so many free GPUs: no more of them can start, however the free GPUs are shared out."""
        chosen: list[Running] = []
        for (_, gpus), entries in self._groups.items():
            last = bisect_left(entries, (since,)) + free // gpus
            chosen += [r for _, r in entries[:last]]
        return chosen

    def fewest(self) -> int:
        """The fewest GPUs that one of them requests; 0 where none waits."""
        return min((gpus for (_, gpus), entries in self._groups.items() if entries), default=0)

    def first(
        self, running: Iterable[Running], free: int, blocking: bool, running_first: bool = False
    ) -> list[Running]:
        """Of these that run and those that wait, in order, each that fits into the free GPUs left by those before it.

        blocking: none after one that does not fit. running_first: those that run are before those that wait. Where
        tenants have quotas, jobs that fit into what is left of their tenant's quota come first; those after them borrow
        what no tenant uses.
        """
        groups: dict[_Group, list[_Entry]] = {group: [] for group, entries in self._groups.items() if entries}
        for r in running:
            groups.setdefault(self._group(r), []).append((self._key(r), r))
        if not self._quotas:
            return self._fitting(groups, free, blocking, running_first, set())
        chosen: list[Running] = []
        taken: set[int] = set()
        for tenant, quota in self._quotas.items():
            of_tenant = {group: entries for group, entries in groups.items() if group[0] == tenant}
            within = self._fitting(of_tenant, min(quota, free), blocking, running_first, taken)
            free -= sum(r.requested for r in within)
            taken.update(map(id, within))
            chosen += within
        return chosen + self._fitting(groups, free, blocking, running_first, taken)

    def _fitting(
        self, groups: Mapping[_Group, list[_Entry]], free: int, blocking: bool, running_first: bool, taken: set[int]
    ) -> list[Running]:
        """As `first`, of these groups (of each, those that run), without those taken."""
        streams = [self._stream(group, entries, running_first, taken) for group, entries in groups.items()]
        heads = [(*head, stream) for stream in streams if (head := next(stream, None))]
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

    def _stream(self, group: _Group, running: list[_Entry], running_first: bool, taken: set[int]) -> Iterator[_Entry]:
        """A group in order: those that run and those that wait."""
        waiting = self._groups.get(group, ())
        stream: Iterator[_Entry]
        if running_first:
            ordered = [((0, *key), r) for key, r in sorted(running)]
            stream = merge(ordered, (((1, *key), r) for key, r in waiting))
        else:
            stream = merge(sorted(running), waiting)
        return (entry for entry in stream if id(entry[1]) not in taken) if taken else stream

    def _group(self, r: Running) -> _Group:
        return (r.job.tenant if self._quotas else ""), r.requested
