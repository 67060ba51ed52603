"""Which event encloses which: on one thread, ranges and operators open and close like brackets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from vtrain_sim.ingest.trace import Bools, Ints

_Numbers = TypeVar("_Numbers", Ints, Bools)
# Times written in whole microseconds may let an event end this much after the one that encloses it.
ROUNDING_NS = 1000


@dataclass(frozen=True)
class Nesting:
    """Parents of events that are sorted by thread, start, and longest first.

    parent: [count] index of the innermost enclosing event, -1 for none. levels: the events of each depth,
    outermost first. overlapping: [count] whether the event overlaps the one before it without being inside.
    """

    parent: Ints
    levels: tuple[Ints, ...]
    overlapping: Bools

    def pass_down(self, values: _Numbers, inherits: Bools) -> _Numbers:
        """Values of events, where those that `inherits` marks take over their parent's."""
        result: _Numbers = values.copy()
        for level in self.levels[1:]:
            taking = level[inherits[level]]
            result[taking] = result[self.parent[taking]]
        return result

    def add_up(self, values: Ints, combine: Callable[[Ints, Ints, Ints], None]) -> Ints:
        """Values of events together with those of all events inside them (`np.add.at`, `np.minimum.at`, ...)."""
        result: Ints = values.copy()
        for level in reversed(self.levels[1:]):
            combine(result, self.parent[level], result[level])
        return result


def sort_order(thread: Ints, start: Ints, duration: Ints, category: Ints) -> Ints:
    """The order that `nest` needs."""
    return np.lexsort((category, -duration, start, thread))


def nest(thread: Ints, start: Ints, duration: Ints) -> Nesting:
    """Nest sorted events; one that overlaps its predecessor is put into the nearest event that holds it."""
    parent, depth = np.full(len(start), -1, dtype=np.int64), np.zeros(len(start), dtype=np.int64)
    overlapping = np.zeros(len(start), dtype=bool)
    ends = (start + duration).tolist()
    for begin, stop in _runs(thread):
        stack: list[int] = []
        for index, at in zip(range(begin, stop), start[begin:stop].tolist(), strict=True):
            end = ends[index]
            while stack and ends[stack[-1]] <= at:
                stack.pop()
            for position, outer in enumerate(reversed(stack)):
                if ends[outer] + ROUNDING_NS >= end and ends[outer] > at:
                    parent[index] = outer
                    depth[index] = depth[outer] + 1
                    overlapping[index] = position > 0
                    break
            else:
                overlapping[index] = bool(stack)
            stack.append(index)
    return Nesting(parent, _levels(depth), overlapping)


def adopt(nesting: Nesting, rows: Ints, parents: Ints) -> Nesting:
    """The nesting after outermost events `rows` were put into `parents`, events of another tree."""
    count = len(nesting.parent)
    root = nesting.pass_down(np.arange(count), nesting.parent >= 0)
    depth = np.zeros(count, dtype=np.int64)
    for number, level in enumerate(nesting.levels):
        depth[level] = number
    shift = np.zeros(count, dtype=np.int64)
    shift[rows] = depth[parents] + 1
    parent = nesting.parent.copy()
    parent[rows] = parents
    return Nesting(parent, _levels(depth + shift[root]), nesting.overlapping)


def _levels(depth: Ints) -> tuple[Ints, ...]:
    by_depth = np.argsort(depth, kind="stable")
    cuts = np.flatnonzero(np.diff(depth[by_depth])) + 1
    return tuple(np.split(by_depth, cuts))


def innermost(thread: Ints, start: Ints, duration: Ints, nesting: Nesting, at_thread: Ints, at: Ints) -> Ints:
    """Index of the innermost event that is open on a thread at a time, -1 for none. Arguments: sorted events,
    and [points] threads and times."""
    open_event = np.full(len(at), -1, dtype=np.int64)
    if not len(start):
        return open_event
    points = np.argsort(at_thread, kind="stable")
    bounds = {int(thread[b]): (b, e) for b, e in _runs(thread)}
    for begin, stop in _runs(at_thread[points]):
        members = points[begin:stop]
        events = bounds.get(int(at_thread[members[0]]))
        if events is not None:
            first, last = events
            place = np.searchsorted(start[first:last], at[members], side="right") - 1
            open_event[members] = np.where(place >= 0, place + first, -1)
    ends = start + duration
    while True:
        over = (open_event >= 0) & (ends[open_event] < at)
        if not over.any():
            return open_event
        open_event[over] = nesting.parent[open_event[over]]


def _runs(values: Ints) -> Iterator[tuple[int, int]]:
    """Begin and end of each run of equal values."""
    if not len(values):
        return
    cuts = np.flatnonzero(np.diff(values)) + 1
    yield from zip([0, *cuts.tolist()], [*cuts.tolist(), len(values)], strict=True)
