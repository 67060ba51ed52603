"""Which ranks call each other: channels of calls that wait for one another are of one group.

A channel is the calls of one rank on one stream, or in one process group that the profiler names. Ranks of different
groups may make the same calls at the same time, so it takes more than that: calls in which one rank alone came late and
all the others waited for it. However the others are divided, one part of them would have ended without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from vtrain_sim.ingest.trace import Bools, Ints

# Calls in which all waited for one that make it sure that they belong together.
_ENOUGH = 3
# How far apart the ends may be, of the difference of the starts, to be called together.
_TOGETHER = 0.5
# Where another rank makes this part of a group's calls at the same times, it may be of it.
_SUSPICIOUS = 0.75
# Calls that are compared at most.
_MOST_CALLS = 256

# Begins and ends of calls of one sort.
_Times: TypeAlias = tuple[Ints, Ints]


@dataclass(frozen=True)
class Channel:
    """Calls of one rank in order of time. name: of its process group, "" if unknown.

    calls: [calls] number of what each is, equal on all ranks of a group. start, end: [calls], ns. joint: [calls]
    whether no rank can end such a call before all have begun it.
    """

    rank: int
    name: str
    calls: Ints
    start: Ints
    end: Ints
    joint: Bools


def matched(channels: Sequence[Channel]) -> list[list[int]]:
    """Groups of channels, by their places in the list: those of which it is sure that they belong together.

    None where another rank might belong to it too.
    """
    alike: dict[object, list[int]] = {}
    for place, channel in enumerate(channels):
        alike.setdefault((channel.name, channel.calls.tobytes()), []).append(place)
    groups = [
        [places[i] for i in group]
        for places in alike.values()
        if len(places) > 1
        for group in _groups([channels[place] for place in places])
    ]
    of_ranks = _by_rank(channels) if groups else {}
    return [group for group in groups if not _joined_by_others([channels[place] for place in group], of_ranks)]


def _groups(channels: Sequence[Channel]) -> list[list[int]]:
    """The groups among channels that make the same calls."""
    compared = _compared(channels[0])
    if not len(compared):
        return []
    start, end = (np.stack([getattr(c, name)[compared] for c in channels]) for name in ("start", "end"))
    possible = _possible(start, end)
    ranks = [c.rank for c in channels]
    groups = []
    for group in _components(possible):
        complete = (possible[np.ix_(group, group)]).all() and len({ranks[member] for member in group}) == len(group)
        if complete and _waits(start[group], end[group]) >= _ENOUGH:
            groups.append(group)
    return groups


def _compared(channel: Channel) -> Ints:
    """Places of the calls to compare: spread over all those that a rank cannot end before all have begun."""
    joint = np.flatnonzero(channel.joint)
    return joint[np.linspace(0, len(joint) - 1, min(len(joint), _MOST_CALLS)).astype(np.int64)]


def _possible(start: Ints, end: Ints) -> Bools:
    """[channels, channels] which pairs may belong together: each call runs on both at a time, and where one of them
    comes later by more than a transfer takes, the other waits for it."""
    possible = np.empty((len(start), len(start)), dtype=bool)
    transfer = (end - start).min(axis=0)
    for row in range(len(start)):
        overlap = (np.maximum(start, start[row]) < np.minimum(end, end[row])).all(axis=1)
        late, apart = np.abs(start - start[row]), np.abs(end - end[row])
        late, apart = (np.where(late > transfer, by, 0).sum(axis=1) for by in (late, apart))
        possible[row] = overlap & (apart <= _TOGETHER * late)
    return possible


def _waits(start: Ints, end: Ints) -> int:
    """How many calls there are in which one rank came later than all others by more than the transfer takes, and all
    ended together. start, end: [channels, calls]."""
    ordered = np.sort(start, axis=0)
    alone = ordered[-1] - ordered[-2]
    transfer = (end - start).min(axis=0)
    apart = end.max(axis=0) - end.min(axis=0)
    return int(((alone > transfer) & (apart <= _TOGETHER * alone)).sum())


def _components(linked: Bools) -> list[list[int]]:
    """Connected parts of more than one, each in order."""
    left = set(range(len(linked)))
    parts = []
    while left:
        part: set[int] = set()
        waiting = [min(left)]
        while waiting:
            here = waiting.pop()
            if here not in part:
                part.add(here)
                waiting += np.flatnonzero(linked[here]).tolist()
        left -= part
        if len(part) > 1:
            parts.append(sorted(part))
    return parts


def _by_rank(channels: Sequence[Channel]) -> dict[int, dict[int, _Times]]:
    """Times of the calls of each rank, whatever their channel, by what they are."""
    of_ranks: dict[int, list[Channel]] = {}
    for channel in channels:
        of_ranks.setdefault(channel.rank, []).append(channel)
    return {rank: _times(of_rank) for rank, of_rank in of_ranks.items()}


def _times(channels: Sequence[Channel]) -> dict[int, _Times]:
    calls, start, end = (np.concatenate([getattr(c, name) for c in channels]) for name in ("calls", "start", "end"))
    order = np.lexsort((end, start, calls))
    numbers, first = np.unique(calls[order], return_index=True)
    parts = (np.split(column[order], first[1:]) for column in (start, end))
    return dict(zip(numbers.tolist(), zip(*parts, strict=True), strict=True))


def _joined_by_others(group: Sequence[Channel], of_ranks: Mapping[int, Mapping[int, _Times]]) -> bool:
    """Whether another rank makes the same calls at the same times: one whose trace lacks a call, or mixes streams."""
    compared = _compared(group[0])
    begin = np.max([c.start[compared] for c in group], axis=0)
    end = np.min([c.end[compared] for c in group], axis=0)
    what = group[0].calls[compared]
    by_call = {int(call): np.flatnonzero(what == call) for call in np.unique(what)}
    members = {c.rank for c in group}
    for rank, calls in of_ranks.items():
        if rank in members:
            continue
        beside = 0
        for call, indices in by_call.items():
            if call in calls:
                starts, ends = calls[call]
                last = np.searchsorted(starts, end[indices]) - 1
                beside += int(((last >= 0) & (ends[last] > begin[indices])).sum())
        if beside >= _SUSPICIOUS * len(compared):
            return True
    return False
