"""Operator programs on the streams of one device, and their composition.

A program takes the times at which the streams and the host become free to those at which they are free after
it. Each of the latter is a maximum of sums of the former and fixed durations: the program is a linear map in
the max-plus algebra (Baccelli et al., Synchronization and Linearity, 1992). Programs that follow each other
are products of their maps, and n identical layers a power, so that a chunk of any depth costs a few products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.costs import Estimate
from vtrain_sim.model.program import Item, Stream

Floats = NDArray[np.float64]
STREAMS = len(Stream)


Clock = TypeVar("Clock", float, Floats)


@dataclass(frozen=True)
class Step:
    """One item of a program with its durations, seconds.

    seconds: on its stream. host_s: what the host needs to launch it; first_launch_s: until its first kernel is
    launched. waits_for: name of the communications that the compute stream waits for (then nothing runs).
    host_waits: the host goes on only when the compute stream has come that far. estimate: what the seconds are from.
    """

    item: Item
    stream: Stream
    seconds: float
    host_s: float = 0.0
    first_launch_s: float = 0.0
    blocking: bool = True
    waits_for: str = ""
    host_waits: bool = False
    estimate: Estimate | None = None


@dataclass(frozen=True)
class Span:
    """When one item ran, in the units of the clocks. ready: when the compute stream was free for it. launched: when
    the host began to launch it."""

    step: Step
    start: float
    end: float
    ready: float
    launched: float


def issue(
    steps: Iterable[Step],
    clocks: list[Clock],
    later: Callable[[Clock, Clock], Clock],
    record: Callable[[Step, Clock, Clock, Clock, Clock], None] | None = None,
) -> None:
    """Issue a program; `clocks` (one per `Stream`: when it becomes free) are moved on.

    later: maximum of two clocks. record: called with each step, its start, its end, when the compute stream was
    ready for it and when the host began to launch it.
    """
    ends: dict[str, Clock] = {}
    compute, host = clocks[Stream.COMPUTE], clocks[Stream.HOST]
    for step in steps:
        ready = compute
        if step.waits_for:
            end = ends.get(step.waits_for)
            if end is not None:
                compute = later(compute, end)
                if record is not None:
                    record(step, ready, compute, ready, host)
            continue
        if step.host_waits:
            host = later(host, compute)
        start, launched = compute, host
        if step.stream != Stream.COMPUTE:
            start = later(start, clocks[step.stream])
        if step.host_s:
            start = later(start, host + step.first_launch_s)
            host = host + step.host_s
            end = later(start + step.seconds, host)
        else:
            end = start + step.seconds
        if step.stream == Stream.COMPUTE:
            compute = end
        else:
            clocks[step.stream] = end
            name = step.item.name
            ends[name] = later(ends[name], end) if name in ends else end
            if step.blocking:
                compute = later(compute, end)
        if record is not None:
            record(step, start, end, ready, launched)
    clocks[Stream.COMPUTE], clocks[Stream.HOST] = compute, host


def spans_of(steps: Iterable[Step], clocks: list[float]) -> list[Span]:
    """Issue a program and say when each item ran; `clocks` are moved on."""
    spans: list[Span] = []

    def record(step: Step, start: float, end: float, ready: float, launched: float) -> None:
        spans.append(Span(step, start, end, ready, launched))

    issue(steps, clocks, max, record)
    return spans


@dataclass
class StreamMap:
    """A program as a max-plus linear map. matrix: [STREAMS, STREAMS]; clock i after the program is the maximum
    over j of clock j before it plus matrix[i, j], seconds; -inf where it does not depend on it."""

    matrix: Floats
    _powers: list[Floats] = field(default_factory=list)

    @classmethod
    def of(cls, steps: Sequence[Step]) -> StreamMap:
        """The map of a program: it is issued on symbolic clocks."""
        identity = np.full((STREAMS, STREAMS), -np.inf)
        np.fill_diagonal(identity, 0.0)
        clocks = list(identity)
        issue(steps, clocks, np.maximum)
        return cls(np.array(clocks))

    def repeated(self, count: int) -> list[Floats]:
        """Matrices whose product is the map applied `count` times: powers of two, each made once."""
        return [power for bit, power in enumerate(self.powers(count)) if count >> bit & 1]

    def powers(self, count: int) -> list[Floats]:
        """The map applied 1, 2, 4, ... times, up to `count` times at least."""
        if not self._powers:
            self._powers.append(self.matrix)
        while 1 << len(self._powers) <= count:
            last = self._powers[-1]
            self._powers.append(product(last, last))
        return self._powers


def product(second: Floats, first: Floats) -> Floats:
    """The map that applies `first`, then `second`: [STREAMS, STREAMS]."""
    result: Floats = np.maximum.reduce(second[:, :, None] + first[None, :, :], axis=1)
    return result


def after(matrix: Floats, clocks: Floats) -> Floats:
    """[STREAMS] clocks after a program."""
    result: Floats = np.maximum.reduce(matrix + clocks, axis=1)
    return result


def before(matrix: Floats, remaining: Floats) -> Floats:
    """[STREAMS] time that remains from each clock before a program, given the one after it, to the end of all."""
    return after(matrix.T, remaining)


def one_by_one(powers: Sequence[Floats], count: int, clocks: Floats) -> Floats:
    """[count + 1, STREAMS] clocks before a program, and after each of the `count` times that it runs.

    powers: its maps applied 1, 2, 4, ... times. Each of them takes all that are known twice as far.
    """
    times = clocks[None]
    for power in powers:
        if len(times) > count:
            break
        times = np.concatenate([times, np.maximum.reduce(power + times[:, None, :], axis=2)])
    return times[: count + 1]
