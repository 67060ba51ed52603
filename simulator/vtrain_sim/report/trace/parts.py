"""What a trace is made of: processes with tracks of slices, counters, and arrows between slices.

Times are whole nanoseconds from the beginning of the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from vtrain_sim.simulate.spans import PASSES, SENDS

COMPUTE, HOST, RECEIVES = "compute", "host", "pp"
# From top to bottom; tracks that are not named here follow. A further lane of a track is next to it.
_ORDER = (PASSES, COMPUTE, "tp", "cp", "ep", "dp", RECEIVES, SENDS, HOST)
# Counters with what they count.
IN_FLIGHT, MEMORY = ("in flight", "microbatches"), ("memory", "GiB")


class Slice(NamedTuple):
    """Something on a track from begin_ns to end_ns; arguments are shown with it."""

    name: str
    begin_ns: int
    end_ns: int
    arguments: Mapping[str, object] = {}


class Moment(NamedTuple):
    """A place that an arrow begins or ends at: the slice of a track that runs at that time."""

    process: int
    track: str
    at_ns: int


class Flow(NamedTuple):
    """An arrow."""

    name: str
    begin: Moment
    end: Moment


@dataclass
class Process:
    """One rank of a stage. stage: None where it is not known. tracks: slices by the name of their track, by time, what
    encloses others before them. counters: values by name and unit, by time."""

    name: str
    stage: int | None
    tracks: dict[str, list[Slice]] = field(default_factory=dict)
    counters: dict[tuple[str, str], list[tuple[int, float]]] = field(default_factory=dict)

    def add(self, track: str, slices: Iterable[Slice]) -> None:
        """Put slices on a track; those that neither enclose nor follow what is there go to further lanes of it."""
        for number, lane in enumerate(_lanes(slices)):
            self.tracks[f"{track} {number + 1}" if number else track] = lane

    def ordered(self) -> list[tuple[str, list[Slice]]]:
        """The tracks from top to bottom."""
        return sorted(self.tracks.items(), key=lambda item: _rank(item[0]))


@dataclass
class Trace:
    """Processes and the arrows between them, which name them by their position."""

    processes: list[Process]
    flows: list[Flow] = field(default_factory=list)

    @property
    def slices(self) -> int:
        """Number of slices."""
        return sum(len(slices) for process in self.processes for slices in process.tracks.values())

    def beside(self, other: Trace) -> Trace:
        """Both in one, with the processes of one stage under each other."""
        both = [*self.processes, *other.processes]
        order = sorted(range(len(both)), key=lambda number: -1 if (at := both[number].stage) is None else at)
        position = {number: place for place, number in enumerate(order)}
        first = len(self.processes)
        flows = [_moved(flow, position, 0) for flow in self.flows]
        flows += [_moved(flow, position, first) for flow in other.flows]
        return Trace([both[number] for number in order], flows)


def nanoseconds(seconds: float) -> int:
    """Seconds as whole nanoseconds: what was in order stays in order."""
    return round(seconds * 1e9)


def _moved(flow: Flow, position: Mapping[int, int], first: int) -> Flow:
    begin, end = (moment._replace(process=position[moment.process + first]) for moment in (flow.begin, flow.end))
    return Flow(flow.name, begin, end)


def _lanes(slices: Iterable[Slice]) -> list[list[Slice]]:
    """Slices on as few lanes as needed for those of each to follow or enclose each other."""
    lanes: list[list[Slice]] = []
    # Of each lane, the ends of what has not ended.
    open_ends: list[list[int]] = []
    for one in sorted(slices, key=lambda s: (s.begin_ns, -s.end_ns)):
        lane = next((number for number, ends in enumerate(open_ends) if _takes(ends, one)), len(lanes))
        if lane == len(lanes):
            lanes.append([])
            open_ends.append([])
        lanes[lane].append(one)
        open_ends[lane].append(one.end_ns)
    return lanes


def _takes(ends: list[int], one: Slice) -> bool:
    """Whether a slice is inside or after all of a lane; ends: of what had not ended there, brought up to date."""
    while ends and ends[-1] <= one.begin_ns:
        ends.pop()
    return not ends or one.end_ns <= ends[-1]


def _rank(track: str) -> tuple[int, str]:
    matching = [name for name in _ORDER if track == name or track.removeprefix(f"{name} ").isdecimal()]
    return (_ORDER.index(max(matching, key=len)) if matching else len(_ORDER)), track
