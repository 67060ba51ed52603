"""Where a trace can be cut in time: at moments when no operator and no call of communication is open on any thread.

What may reach over a cut are ranges and modules, which only enclose. What is inside them adds up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vtrain_sim.ingest.call_names import is_mark
from vtrain_sim.ingest.facts import flags
from vtrain_sim.ingest.nesting import ROUNDING_NS
from vtrain_sim.ingest.spool import Spool
from vtrain_sim.ingest.trace import OPERATOR, Ints

# An event may end a little after the one that it is in: so much around a cut nothing ends that matters there.
SLACK_NS = 16 * ROUNDING_NS
# Moments looked at: over a minute, one each 14 microseconds.
_BINS = 1 << 22
_SAMPLE = 1 << 16


def cuts_of(names: Sequence[str], host: Spool, launches: Spool, device: Spool, most: int) -> Ints:
    """Times, ns, in order, that cut a trace into windows of at most `most` events, where it can be cut that often.

    device: counts at the time `at`, that of the launch.
    """
    times = [(host, "start"), (launches, "start"), (device, "at")]
    every = max(1, sum(spool.rows for spool, _ in times) // _SAMPLE)
    # Copies: a view would keep its whole block.
    sample = [block.columns[name][::every].copy() for spool, name in times for block in spool.blocks()]
    timeline = _Timeline(np.concatenate(sample))
    for spool, name in times:
        for block in spool.blocks():
            timeline.count(block.columns[name])
    marks = flags(names, is_mark)
    for block in host.blocks():
        whole = (block.category == OPERATOR) | (block.call > 0) | marks[block.name]
        timeline.keep_whole(block.start[whole], (block.start + block.duration)[whole] + SLACK_NS)
    return timeline.cuts(most)


class _Timeline:
    """Moments of equal length between the first and the last event; a few far away count as at the ends."""

    def __init__(self, sample: Ints) -> None:
        first, last = np.quantile(sample, [0.001, 0.999])
        margin = (last - first) / 100 + 1
        self._begin = int(first - margin)
        self._width = max(1, int(last - first + 2 * margin) // _BINS + 1)
        self._events = np.zeros(_BINS, dtype=np.int32)
        self._opened = np.zeros(_BINS + 1, dtype=np.int32)

    def count(self, at: Ints) -> None:
        """Take in events that begin at some times."""
        np.add.at(self._events, self._bin(at), 1)

    def keep_whole(self, begin: Ints, end: Ints) -> None:
        """Take in intervals that no cut may touch."""
        np.add.at(self._opened, self._bin(begin), 1)
        np.add.at(self._opened, self._bin(end) + 1, -1)

    def cuts(self, most: int) -> Ints:
        """Begins of free moments with at most that many events between them, or the next free one."""
        free = np.flatnonzero(np.cumsum(self._opened[:-1], dtype=np.int32) == 0)
        before = np.concatenate([np.zeros(1, dtype=np.int32), np.cumsum(self._events, dtype=np.int32)])
        total = int(before[-1])
        # Events before each free moment; a cut has some on both sides.
        free = free[(before[free] > 0) & (before[free] < total)]
        before = before[free]
        cuts: list[int] = []
        done = 0
        while total - done > most:
            # The last free moment that leaves no more than `most`, else the first one after the last cut.
            furthest = int(np.searchsorted(before, done + most, side="right")) - 1
            place = max(furthest, int(np.searchsorted(before, done, side="right")))
            if place >= len(free):
                break
            done = int(before[place])
            cuts.append(self._begin + int(free[place]) * self._width)
        return np.array(cuts, dtype=np.int64)

    def _bin(self, at: Ints) -> Ints:
        bins: Ints = np.clip((at - self._begin) // self._width, 0, _BINS - 1)
        return bins
