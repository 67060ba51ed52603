"""The critical path of a captured step: walked backwards from its end, over the ranks.

Whatever ended last before something began is what it waited for. A collective ends on all its ranks together, once the
last of them has come: the path goes on with what that rank did before.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

# Group and operation as a hash, and the ordinal of the call among them.
CallKey: TypeAlias = tuple[int, int]

COMPUTE, COMMUNICATION, COPY = "compute", "communication", "copy"
HOST, LAUNCH, GAP, QUEUED = "host", "launch", "gap", "queued"
# What a device needs between two kernels of a stream: within this, the one before is what the next one waited for.
_BACK_TO_BACK_NS = 3000
# A kernel that begins so soon after its launch did not wait for others.
_LAUNCH_NS = 30_000


class Activity(NamedTuple):
    """Something that a rank did, on its own clock. kind: compute, communication or copy.

    stream: of a kernel, told from the others of its rank; -1 without one. launch_ns: when the host launched it; None
    where that is not known. operator: what launched it; "" where that is not known.
    """

    start_ns: int
    end_ns: int
    kind: str
    name: str
    phase: str = ""
    stream: int = -1
    launch_ns: int | None = None
    call: CallKey | None = None
    operator: str = ""

    @property
    def launcher(self) -> str:
        """The operator that launched it, or a word for that."""
        return self.operator or f"the operator of {self.name}"


@dataclass(frozen=True)
class Arrival:
    """The rank that came last to a call, and when. transfer_ns: from then to the end; None where that is not known."""

    rank: int
    start_ns: int
    transfer_ns: int | None


@dataclass(frozen=True)
class Piece:
    """A part of the path, on its rank's clock.

    kind: what `Activity` has, or, where the device did nothing: host (nothing was launched), launch (from the launching
    call to the start), gap (it was launched before the kernel before had ended, and began later) or queued (the device
    was still busy with what was launched before the step).

    waited_for: in communication, the rank that came last, where the path goes on; None where it stays.
    """

    rank: int
    start_ns: int
    duration_ns: int
    kind: str
    name: str
    phase: str = ""
    waited_for: int | None = None


class RankLine:
    """What one rank did in a step, for looking backwards.

    activities: of positive duration. beside: they may run beside one another (kernels on streams); else they follow
    one another without gaps. host: ranks of one host have one clock; None where it is not known.
    """

    def __init__(
        self, begin_ns: int, end_ns: int, activities: Sequence[Activity], beside: bool, host: str | None = None
    ) -> None:
        self.begin_ns, self.end_ns, self.host, self._beside = begin_ns, end_ns, host, beside
        self._by_end = sorted(activities, key=lambda a: a.end_ns)
        self._ends = [a.end_ns for a in self._by_end]
        self._by_start = sorted(activities, key=lambda a: a.start_ns)
        self._starts = [a.start_ns for a in self._by_start]
        self._of_call = {a.call: a for a in activities if a.call is not None}
        self._on_stream: dict[int, list[Activity]] = {}
        for activity in self._by_end:
            self._on_stream.setdefault(activity.stream, []).append(activity)

    def of_call(self, call: CallKey) -> Activity | None:
        """The activity that was the rank's part in a call."""
        return self._of_call.get(call)

    def before(self, at_ns: int, following: Activity | None) -> Activity | None:
        """What the rank did before a time: what `following`, which begins then, waited for. None for nothing."""
        if not self._beside:
            index = bisect_left(self._starts, at_ns) - 1
            return self._by_start[index] if index >= 0 else None
        same = self._on_stream.get(following.stream, []) if following is not None else []
        index = bisect_right(same, at_ns, key=lambda a: a.end_ns) - 1
        if index >= 0 and at_ns - same[index].end_ns <= _BACK_TO_BACK_NS:
            return same[index]
        index = bisect_right(self._ends, at_ns) - 1
        return self._by_end[index] if index >= 0 else None


def walk(line_of: Callable[[int], RankLine], calls: Mapping[CallKey, Arrival], rank: int) -> list[Piece]:
    """The pieces of the path that ends when a rank ends its step, in order of time.

    calls: who came last, of the calls of which several ranks were seen.
    """
    pieces: list[Piece] = []
    crossed: set[CallKey] = set()
    line = line_of(rank)
    at_ns, following, arrived = line.end_ns, None, False
    while at_ns > line.begin_ns:
        activity = line.before(at_ns, following)
        if activity is None or activity.end_ns <= line.begin_ns:
            pieces += _first(rank, line.begin_ns, at_ns, following)
            break
        end_ns = min(activity.end_ns, at_ns)
        if end_ns < at_ns:
            pieces += _gap(rank, end_ns, at_ns, following)
        # Where the path came from another rank's call, what was going on then was not waiting for that call.
        arrival = None if arrived and activity.end_ns > at_ns else _crossing(activity, calls, crossed, rank)
        if arrival is None:
            start_ns = max(activity.start_ns, line.begin_ns)
            pieces.append(Piece(rank, start_ns, end_ns - start_ns, activity.kind, activity.name, activity.phase))
            at_ns, following, arrived = start_ns, activity, False
            continue
        assert activity.call is not None
        crossed.add(activity.call)
        here, line = line, line_of(arrival.rank)
        one_clock = here.host is not None and here.host == line.host
        pieces.append(_transfer(rank, activity, end_ns, arrival, one_clock))
        rank, at_ns, arrived = arrival.rank, arrival.start_ns, True
        following = line.of_call(activity.call)
    return [piece for piece in reversed(pieces) if piece.duration_ns > 0 or piece.waited_for is not None]


def _crossing(activity: Activity, calls: Mapping[CallKey, Arrival], crossed: set[CallKey], rank: int) -> Arrival | None:
    """Who came last to the call that an activity is, where it is another rank; a call is crossed once."""
    if activity.call is None or activity.call in crossed:
        return None
    arrival = calls.get(activity.call)
    if arrival is None or arrival.rank == rank:
        return None
    # One that came last together with others stays on the path.
    duration_ns = activity.end_ns - activity.start_ns
    return arrival if arrival.transfer_ns is None or duration_ns > arrival.transfer_ns else None


def _transfer(rank: int, activity: Activity, end_ns: int, arrival: Arrival, one_clock: bool) -> Piece:
    """The part of a call after the last rank had come: by the clock if the two ranks have one, else by the durations.

    An asynchronous call may have begun long before this rank began to wait for it.
    """
    by_clock, longest = max(0, end_ns - arrival.start_ns), end_ns - activity.start_ns
    if arrival.transfer_ns is None:
        duration_ns = by_clock if one_clock else min(by_clock, longest)
    else:
        shortest = min(arrival.transfer_ns, longest)
        duration_ns = min(max(by_clock, shortest), longest) if one_clock else shortest
    return Piece(
        rank, end_ns - duration_ns, duration_ns, COMMUNICATION, activity.name, activity.phase, waited_for=arrival.rank
    )


def _gap(rank: int, begin_ns: int, end_ns: int, following: Activity | None) -> list[Piece]:
    """Time in which the device did nothing that counts, the later part first: the host's until it launched again."""
    if following is None:
        return [Piece(rank, begin_ns, end_ns - begin_ns, HOST, "after the last kernel")]
    if following.launch_ns is None or following.launch_ns <= begin_ns:
        return [Piece(rank, begin_ns, end_ns - begin_ns, GAP, "between kernels")]
    return _launching(rank, begin_ns, end_ns, following, LAUNCH, f"launch by {following.launcher}")


def _first(rank: int, begin_ns: int, end_ns: int, following: Activity | None) -> list[Piece]:
    """What is left before the first activity, the later part first."""
    if following is None or following.launch_ns is None:
        return [Piece(rank, begin_ns, end_ns - begin_ns, HOST, "before the first kernel")]
    if end_ns - max(following.launch_ns, begin_ns) <= _LAUNCH_NS:
        return _launching(rank, begin_ns, end_ns, following, LAUNCH, f"launch by {following.launcher}")
    return _launching(rank, begin_ns, end_ns, following, QUEUED, "work of the step before")


def _launching(rank: int, begin_ns: int, end_ns: int, following: Activity, kind: str, name: str) -> list[Piece]:
    """The time before an activity, cut where the host launched it. kind, name: of what came after that."""
    launch_ns = min(max(following.launch_ns or begin_ns, begin_ns), end_ns)
    return [
        Piece(rank, launch_ns, end_ns - launch_ns, kind, name),
        Piece(rank, begin_ns, launch_ns - begin_ns, HOST, f"before {following.launcher}"),
    ]
