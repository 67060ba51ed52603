"""Where the time of a stage goes: each second of its compute stream has one cause."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from vtrain_schemas.operators import kind
from vtrain_sim.costs import MODELLED, Estimate
from vtrain_sim.model import Communication, Compute, Stream
from vtrain_sim.model.offload import HOST as HOST_ROLE
from vtrain_sim.simulate.cost_model import TimedDirection, Work
from vtrain_sim.simulate.layout import Layout, Layouts
from vtrain_sim.simulate.streams import STREAMS, Span, after, spans_of
from vtrain_sim.specs.replicas import ReplicaSpec

HOST = "host launches"
OFFLOADING = "offloading to the host"
STRAGGLERS = "waiting for the slowest node"
# How sure the time of a kernel launch is: standard deviation of its logarithm.
HOST_SIGMA = 0.3
# Clocks that differ by less than this part of a program's duration are the same.
_SAME = 1e-12

Key = TypeVar("Key")


class Tally:
    """Time by category, by category and source (a kind of operator in a phase, an operation of a collective), by
    provenance and by source of error; seconds."""

    __slots__ = ("category", "error", "parts", "provenance", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.category: dict[str, float] = defaultdict(float)
        self.parts: dict[tuple[str, str], float] = defaultdict(float)
        self.provenance: dict[str, float] = defaultdict(float)
        # Errors of one kind of work are the same error wherever it occurs: they add up linearly.
        self.error: dict[str, float] = defaultdict(float)

    def add(self, category: str, source: str, estimate: Estimate, seconds: float) -> None:
        """Add `seconds` of something estimated."""
        if seconds <= 0:
            return
        self.seconds += seconds
        self.category[category] += seconds
        self.parts[category, source] += seconds
        self.provenance[estimate.provenance] += seconds
        self.error[source] += seconds * estimate.sigma

    def merge(self, other: Tally, count: float = 1) -> None:
        """Add another tally `count` times."""
        self.seconds += other.seconds * count
        _add(self.category, other.category, count)
        _add(self.parts, other.parts, count)
        _add(self.provenance, other.provenance, count)
        _add(self.error, other.error, count)


def _add(mine: dict[Key, float], theirs: dict[Key, float], count: float) -> None:
    for key, value in theirs.items():
        mine[key] += value * count


def tally_pass(runs: Sequence[tuple[TimedDirection, int]], direction: str) -> Tally:
    """A pass: its tally adds up to its duration."""
    tally = Tally()
    clocks = [0.0] * STREAMS
    for timed, count in runs:
        done = 0
        while done < count:
            entry = clocks.copy()
            one = _tally_spans(spans_of(timed.steps, clocks), direction)
            repeats = count - done if _repeats(one, entry, clocks) else 1
            tally.merge(one, repeats)
            for matrix in timed.map.repeated(repeats - 1):
                clocks = after(matrix, np.array(clocks)).tolist()
            done += repeats
    _tally_end(tally, runs, clocks)
    return tally


def _repeats(one: Tally, entry: Sequence[float], clocks: Sequence[float]) -> bool:
    """Whether a program whose tally is `one` would give the same again: its streams stand to each other as before,
    have long been idle, or are a host that no kernel waits for and that comes further ahead."""
    took = clocks[Stream.COMPUTE] - entry[Stream.COMPUTE]
    for stream in Stream:
        lag = entry[stream] - entry[Stream.COMPUTE]
        moved = clocks[stream] - clocks[Stream.COMPUTE]
        ahead = moved <= lag and one.category.get(HOST, 0.0) <= _SAME * took
        idle = ahead if stream == Stream.HOST else max(lag, moved) < -took
        if abs(lag - moved) > _SAME * took and not idle:
            return False
    return True


def _tally_spans(spans: Sequence[Span], direction: str) -> Tally:
    tally = Tally()
    awaited: dict[str, tuple[Communication, Estimate]] = {}
    for span in spans:
        item, estimate = span.step.item, span.step.estimate
        if isinstance(item, Compute) and estimate is not None:
            recomputed = item.operator.phase == "recompute"
            source = f"{item.operator.kind}/{item.operator.phase}"
            tally.add("recompute" if recomputed else direction, source, estimate, span.step.seconds)
            late = span.end - span.ready - span.step.seconds
            tally.add(HOST, "launch", Estimate(late, HOST_SIGMA, MODELLED), late)
        elif isinstance(item, Communication) and estimate is not None:
            if span.step.blocking:
                tally.add(category_of(item), item.op, estimate, span.end - span.ready)
            else:
                awaited[item.name] = (item, estimate)
        elif item.name in awaited:
            communication, estimate = awaited[item.name]
            tally.add(category_of(communication), communication.op, estimate, span.end - span.ready)
    return tally


def _tally_end(tally: Tally, runs: Sequence[tuple[TimedDirection, int]], clocks: list[float]) -> None:
    """What a pass waits for at its end: communication that nothing in it waited for, and the host."""
    last = max(range(STREAMS), key=lambda stream: clocks[stream])
    late = clocks[last] - clocks[Stream.COMPUTE]
    if late <= 0:
        return
    for timed, _ in reversed(runs):
        for step in reversed(timed.steps):
            if step.stream == last and isinstance(step.item, Communication) and step.estimate is not None:
                tally.add(category_of(step.item), step.item.op, step.estimate, late)
                return
    tally.add(HOST, "launch", Estimate(late, HOST_SIGMA, MODELLED), late)


def category_of(communication: Communication) -> str:
    """Category of a communication's exposed time."""
    if communication.role == HOST_ROLE:
        return OFFLOADING
    return f"{communication.role} communication"


def tally_once(work: Work) -> Tally:
    """Work that is done once per step, one after the other."""
    tally = Tally()
    for item, estimate in work:
        if isinstance(item, Compute):
            name = "optimizer" if kind(item.operator.kind).follows_shape else "step overhead"
            tally.add(name, item.operator.kind, estimate, estimate.seconds)
        else:
            tally.add(category_of(item), item.op, estimate, estimate.seconds)
    return tally


def tally_stage(layouts: Layouts, layout: Layout, stage: int, replicas: ReplicaSpec, microbatches: int) -> Tally:
    """Everything that one stage does in a step, but for waiting for other stages and for its replicas."""
    total = Tally()
    passes = microbatches // layout.schedule.parameter_copies
    for chunk in layout.contents.of_stage(stage):
        runs = layouts.timer.runs(chunk)
        back = runs[::-1]
        total.merge(tally_pass([(p.forward, n) for p, n in runs], "forward"), passes)
        total.merge(tally_pass([(p.backward, n) for p, n in back], "backward"), passes)
        total.merge(tally_pass([(p.weight, n) for p, n in back], "backward"), passes)
    once = layouts.once(layout.holding(stage), replicas)
    for work in (once.before, once.sync, once.update):
        total.merge(tally_once(work))
    return total
