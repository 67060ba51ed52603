"""One rank's trace as windows of time that are worked on one after the other: memory does not grow with the trace.

A short trace is one window. A window has the host events that begin in it, the launching calls of its time, and what
they launched, whenever that ran. One link ends at its borders: that of a kernel to the host event of its external id,
where neither its launch is inside an event nor that event is open then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vtrain_schemas.kernel_names import kernel_kind
from vtrain_sim.ingest.cuts import cuts_of
from vtrain_sim.ingest.facts import Facts, facts_of
from vtrain_sim.ingest.placing import placed_device
from vtrain_sim.ingest.spool import Spool, concatenated
from vtrain_sim.ingest.structure import is_compute
from vtrain_sim.ingest.trace import BESIDE, DEVICE, HOST, KERNEL, LAUNCHES, MEMORY, NEVER, Events, Ints, Trace

# Events that are worked on together: each takes about a kilobyte on the way.
WINDOW = 1 << 17


@dataclass(frozen=True)
class Recording:
    """head: what the whole trace has in common; its columns may be empty. windows: makes the windows, in order of time,
    once. folder: where there is room on disk; None for the system's."""

    head: Trace
    facts: Facts
    windows: Callable[[], Iterator[Trace]]
    folder: Path | None = None

    @property
    def rank(self) -> int:
        """Rank of the process."""
        return self.head.rank

    @classmethod
    def of(cls, trace: Trace) -> Recording:
        """A trace that is in memory, as one window."""
        facts = facts_of(trace.names, [trace.host], [trace.device], [trace.launches], trace.notes)
        return cls(trace, facts, lambda: iter([trace]))


@dataclass(frozen=True)
class Spools:
    """The events of a trace in the order of the file. folder: where there is room on disk."""

    host: Spool
    launches: Spool
    device: Spool
    memory: Spool
    folder: Path | None

    @classmethod
    def empty(cls, folder: Path | None) -> Spools:
        """Spools for events to come."""
        return cls(
            Spool((*HOST, "call"), folder),
            Spool(LAUNCHES, folder),
            Spool(DEVICE, folder),
            Spool(MEMORY, folder),
            folder,
        )

    def shift(self, offset_ns: int) -> None:
        """Make all times later."""
        for spool in (self.host, self.launches, self.device):
            spool.shift("start", offset_ns)
        self.memory.shift("time", offset_ns)

    def trace(self, head: Trace) -> Trace:
        """All events together; they are given up."""
        host, calls = _split(self.host.events())
        trace = replace(
            head,
            host=host,
            host_calls=calls,
            launches=self.launches.events(),
            device=self.device.events(),
            memory=self.memory.events(),
        )
        self.close()
        return trace

    def recording(self, head: Trace) -> Recording:
        """The trace in windows; the events are given up."""
        if self.host.rows + self.launches.rows + self.device.rows <= WINDOW:
            return Recording.of(self.trace(head))
        placed = placed_device(self.device, self.launches, self.host, self.folder)
        cuts = cuts_of(head.names, self.host, self.launches, placed, WINDOW)
        facts = facts_of(head.names, self.host.blocks(), self.device.blocks(), self.launches.blocks(), head.notes)
        head = replace(head, on_device=self.device.rows > 0)
        self.device.close()
        windows = _Windows(head, cuts, self, placed)
        placed.close()
        self.close()
        return Recording(head, facts, windows.traces, self.folder)

    def close(self) -> None:
        """Give up the events."""
        for spool in (self.host, self.launches, self.device, self.memory):
            spool.close()


class _Windows:
    """The events of a trace by window of time."""

    def __init__(self, head: Trace, cuts: Ints, spools: Spools, placed: Spool) -> None:
        self._head, self._cuts = head, cuts
        self._host, self._launches = self._by_time(spools.host, spools), self._by_time(spools.launches, spools)
        self._memory = self._by_time(spools.memory, spools, "time")
        self._device, self._compute = Spool(DEVICE, spools.folder), Spool(BESIDE, spools.folder)
        # [windows] begin and end of its kernels, ns.
        self._begin, self._end = np.full(len(cuts) + 1, NEVER), np.full(len(cuts) + 1, -NEVER)
        computes = np.array([is_compute(kernel_kind(name)) for name in head.names], dtype=bool)
        for block in placed.blocks():
            window = self._window(block.at)
            self._device.scatter(block, window)
            chosen = (block.category == KERNEL) & computes[block.name]
            self._compute.scatter(block.take(chosen), window[chosen])
            np.minimum.at(self._begin, window, block.start)
            np.maximum.at(self._end, window, block.start + block.duration)

    def traces(self) -> Iterator[Trace]:
        """The windows; their events are given up with the last."""
        for number in range(len(self._cuts) + 1):
            yield self._trace(number)
        for spool in (self._host, self._launches, self._device, self._memory, self._compute):
            spool.close()

    def _trace(self, number: int) -> Trace:
        host, calls = _split(self._host.events(number))
        return replace(
            self._head,
            host=host,
            host_calls=calls,
            launches=self._launches.events(number),
            device=self._device.events(number),
            memory=self._memory.events(number),
            beside=self._beside(number),
            end=int(self._cuts[number]) if number < len(self._cuts) else NEVER,
        )

    def _beside(self, number: int) -> Events:
        """Compute kernels of other windows, while those of this one run."""
        overlap = (self._begin < self._end[number]) & (self._end > self._begin[number])
        overlap[number] = False
        return concatenated(BESIDE, [b for n in np.flatnonzero(overlap).tolist() for b in self._compute.blocks(n)])

    def _by_time(self, spool: Spool, spools: Spools, column: str = "start") -> Spool:
        by_window = Spool(spool.names, spools.folder)
        for block in spool.blocks():
            by_window.scatter(block, self._window(block.columns[column]))
        return by_window

    def _window(self, at: Ints) -> Ints:
        window: Ints = np.searchsorted(self._cuts, at, side="right")
        return window


def _split(events: Events) -> tuple[Events, dict[int, int]]:
    """Host events, and the numbers of their calls by row."""
    call = events.columns.pop("call")
    return events, {i: int(call[i]) for i in np.flatnonzero(call > 0).tolist()}
