"""What belongs to what in a trace: who launched a kernel, which step and which pass it was part of.

A kernel belongs to the innermost host event that was open when the host made the launching call: the
call is found by its correlation id. Backward operators are those inside autograd's evaluation of a node,
recomputed ones those inside the evaluation of a checkpoint.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vtrain_schemas.kernel_names import kernel_kind
from vtrain_schemas.range_names import is_communication, range_rule
from vtrain_sim.ingest import trace as model
from vtrain_sim.ingest.nesting import Nesting, adopt, innermost, nest, sort_order
from vtrain_sim.ingest.notes import NOTED
from vtrain_sim.ingest.trace import Events, Ints, Trace

PHASES = ("forward", "backward", "recompute", "update", "dgrad", "wgrad")
FORWARD, BACKWARD, RECOMPUTE, UPDATE, DGRAD, WGRAD = range(6)
EVALUATE = "autograd::engine::evaluate_function: "
OUTSIDE = -1
_NUMBER = re.compile(r"(\d+)\D*$")
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Steps:
    """Training steps in order of time: number, start and duration, ns. `marked`: the trace has them."""

    number: Ints
    start: Ints
    duration: Ints
    marked: bool

    def of(self, at: Ints) -> Ints:
        """The step of each time; `OUTSIDE` for none."""
        if not len(self.start):
            return np.full(len(at), OUTSIDE, dtype=np.int64)
        index = np.searchsorted(self.start, at, side="right") - 1
        held = np.maximum(index, 0)
        inside = (index >= 0) & (at < self.start[held] + self.duration[held])
        return np.where(inside, self.number[held], OUTSIDE)


@dataclass(frozen=True)
class Structure:
    """Indices refer to `host` (sorted) and to the trace's device events.

    launcher: [device] host event, -1. launched_at: [device] time of the launching call, -1 where it is not
    in the trace. span: [host] innermost enclosing (or own) span, -1. phase: [host], index into `PHASES`.
    busy, own: [host] device time launched inside, and by the event itself, ns. first, last: [host] begin
    and end of that on the device. kinds: kind of each device event.
    """

    host: Events
    nesting: Nesting
    is_span: NDArray[np.bool_]
    span: Ints
    phase: Ints
    launcher: Ints
    launched_at: Ints
    busy: Ints
    own: Ints
    first: Ints
    last: Ints
    kinds: list[str]
    steps: Steps
    device_step: Ints
    host_step: Ints


def structure(trace: Trace) -> Structure:
    """Work out the structure of a trace, whose host events are sorted for it; remarks go into its notes."""
    rows = sort_order(trace.host.thread, trace.host.start, trace.host.duration, trace.host.category)
    places = np.empty(len(rows), dtype=np.int64)
    places[rows] = np.arange(len(rows))
    trace.host_calls = {int(places[row]): call for row, call in trace.host_calls.items()}
    # The unsorted columns go: they are most of what a large trace takes.
    host = trace.host = trace.host.take(rows)
    nesting = nest(host.thread, host.start, host.duration)
    if nesting.overlapping.any():
        example = trace.names[int(host.name[int(np.flatnonzero(nesting.overlapping)[0])])]
        trace.notes.add(
            "ranges",
            NOTED,
            "overlap another on their thread: put into the nearest that holds them",
            int(nesting.overlapping.sum()),
            example,
        )
    _note_order(trace)
    launcher, launched_at = _launchers(trace, host, nesting)
    nesting = _adopt_backward(trace, host, nesting)
    own = np.zeros(len(host), dtype=np.int64)
    first, last = np.full(len(host), _NEVER), np.full(len(host), -_NEVER)
    device, linked = trace.device, launcher >= 0
    np.add.at(own, launcher[linked], device.duration[linked])
    np.minimum.at(first, launcher[linked], device.start[linked])
    np.maximum.at(last, launcher[linked], (device.start + device.duration)[linked])
    is_span, marks = _spans_and_marks(trace, host, nesting)
    phase = nesting.pass_down(np.where(marks >= 0, marks, FORWARD), marks < 0)
    span = nesting.pass_down(np.where(is_span, np.arange(len(host)), -1), ~is_span)
    steps = _steps(trace, host)
    when = np.where(launched_at >= 0, launched_at, device.start)
    return Structure(
        host,
        nesting,
        is_span,
        span,
        phase,
        launcher,
        launched_at,
        nesting.add_up(own, np.add.at),
        own,
        nesting.add_up(first, np.minimum.at),
        nesting.add_up(last, np.maximum.at),
        [
            ("memory" if c != model.KERNEL else kernel_kind(trace.names[n]))
            for c, n in zip(device.category.tolist(), device.name.tolist(), strict=True)
        ],
        steps,
        steps.of(when),
        steps.of(host.start),
    )


def _note_order(trace: Trace) -> None:
    """Count the kernels that stand before an earlier one of their stream in the file."""
    order = np.argsort(trace.device.stream, kind="stable")
    starts, streams = trace.device.start[order], trace.device.stream[order]
    late = int(((np.diff(starts) < 0) & (np.diff(streams) == 0)).sum())
    trace.notes.add("kernels", NOTED, "stand out of the order of time in the file: sorted", late)


def _launchers(trace: Trace, host: Events, nesting: Nesting) -> tuple[Ints, Ints]:
    device, launches = trace.device, trace.launches
    found = np.full(len(device), -1, dtype=np.int64)
    times = np.full(len(device), -1, dtype=np.int64)
    order = np.argsort(launches.correlation, kind="stable")
    known = launches.correlation[order]
    if len(known) and len(device):
        place = np.minimum(np.searchsorted(known, device.correlation), len(known) - 1)
        match = (known[place] == device.correlation) & (device.correlation >= 0)
        call = order[place[match]]
        times[match] = launches.start[call]
        found[match] = innermost(
            host.thread, host.start, host.duration, nesting, launches.thread[call], launches.start[call]
        )
    # Without the launching call, the profiler's own link; where it repeats the correlation id it is none.
    loose = (found < 0) & (device.external >= 0) & (device.external != device.correlation)
    if loose.any() and len(host):
        order = np.argsort(host.external, kind="stable")
        known = host.external[order]
        place = np.minimum(np.searchsorted(known, device.external[loose]), len(known) - 1)
        match = known[place] == device.external[loose]
        rows = np.flatnonzero(loose)[match]
        found[rows] = order[place[match]]
        times[rows] = np.where(times[rows] >= 0, times[rows], host.start[found[rows]])
    if len(host):
        reason = "not linked to an operator or range: none was open, or the launching call is not in the trace"
        trace.notes.add("kernels", NOTED, reason, int((found < 0).sum()))
    return found, times


def _adopt_backward(trace: Trace, host: Events, nesting: Nesting) -> Nesting:
    """Put what autograd runs on threads of its own into the range that waits for it on the training thread."""
    evaluates = np.array([name.startswith(EVALUATE) for name in trace.names], dtype=bool)
    # The training thread is the one whose steps are marked, else the one with most ranges.
    is_step = _named_steps(trace)[host.name] & (host.category == model.RANGE) if len(host) else np.empty(0, dtype=bool)
    telling = is_step if is_step.any() else host.category != model.OPERATOR
    if not telling.any():
        return nesting
    threads, counts = np.unique(host.thread[telling], return_counts=True)
    training = int(threads[counts.argmax()])
    autograd = np.unique(host.thread[evaluates[host.name] & (host.thread != training)])
    rows = np.flatnonzero((nesting.parent < 0) & np.isin(host.thread, autograd) & (host.category == model.OPERATOR))
    where = innermost(host.thread, host.start, host.duration, nesting, np.full(len(rows), training), host.start[rows])
    # Only ranges and modules wait: an operator that happens to run then does not.
    while (inside := (where >= 0) & (host.category[np.maximum(where, 0)] == model.OPERATOR)).any():
        where[inside] = nesting.parent[where[inside]]
    found = where >= 0
    return adopt(nesting, rows[found], where[found]) if found.any() else nesting


def _spans_and_marks(trace: Trace, host: Events, nesting: Nesting) -> tuple[NDArray[np.bool_], Ints]:
    """Which host events are spans, and the phase that an event opens (-1: that of what encloses it)."""
    if not len(host):
        return np.empty(0, dtype=bool), np.empty(0, dtype=np.int64)
    opens, quiet = np.full(len(trace.names), -1, dtype=np.int64), np.zeros(len(trace.names), dtype=bool)
    evaluates, autograd = quiet.copy(), quiet.copy()
    for number, name in enumerate(trace.names):
        rule = range_rule(name)
        evaluates[number] = name.startswith(EVALUATE)
        autograd[number] = evaluates[number] or name.startswith("torch::autograd::") or "Backward" in name
        if evaluates[number]:
            opens[number] = RECOMPUTE if "Checkpoint" in name else BACKWARD
        elif rule is not None and rule.phase:
            opens[number] = PHASES.index(rule.phase)
        quiet[number] = is_communication(name)
    is_module = host.category == model.MODULE
    marks = np.where(is_module, -1, opens[host.name])
    # What records a graph is a forward pass: inside autograd's evaluation one that is run again, and within a
    # range around the backward pass one that merely stands there (the loss). So is what a module calls.
    inside = nesting.pass_down(evaluates[host.name], ~evaluates[host.name])
    around = nesting.pass_down(np.where(marks >= 0, marks, FORWARD), marks < 0)
    records = (host.category == model.OPERATOR) & (host.sequence >= 0) & ~autograd[host.name]
    records &= np.isin(around, (BACKWARD, DGRAD, WGRAD))
    marks[records] = np.where(inside[records], RECOMPUTE, FORWARD)
    marks[is_module & inside] = RECOMPUTE
    return (host.category != model.OPERATOR) & ~quiet[host.name], marks


def _named_steps(trace: Trace) -> NDArray[np.bool_]:
    """Which of the trace's names are those of training steps."""
    return np.array([(r := range_rule(n)) is not None and r.kind == "step" for n in trace.names], dtype=bool)


def _steps(trace: Trace, host: Events) -> Steps:
    is_step = _named_steps(trace)
    rows = (
        np.flatnonzero((host.category == model.RANGE) & is_step[host.name])
        if len(host)
        else np.empty(0, dtype=np.int64)
    )
    if len(rows):
        rows = rows[np.argsort(host.start[rows], kind="stable")]
        start, duration = host.start[rows], host.duration[rows]
        outer = np.concatenate([[True], start[1:] >= np.maximum.accumulate(start + duration)[:-1]])
        trace.notes.add("steps", NOTED, "lie inside another step: left to it", int((~outer).sum()))
        rows = rows[outer]
        numbers = [_step_number(trace.names[int(n)]) for n in host.name[rows]]
        if None in numbers or len(set(numbers)) < len(numbers):
            trace.notes.add("steps", NOTED, "have no numbers of their own: numbered in order of time", len(rows))
            numbers = list(range(len(rows)))
        return Steps(np.array(numbers, dtype=np.int64), host.start[rows], host.duration[rows], True)
    everything = [e for e in (host, trace.device) if len(e)]
    if not everything:
        nothing = np.empty(0, dtype=np.int64)
        return Steps(nothing, nothing, nothing, False)
    # The first launch may come before everything else.
    begin = min(int(e.start.min()) for e in (*everything, *([trace.launches] if len(trace.launches) else [])))
    end = max(int((e.start + e.duration).max()) for e in everything)
    trace.notes.add("steps", NOTED, "none is marked (ProfilerStep#): the whole trace counts as one step, number 0")
    return Steps(np.array([0]), np.array([begin]), np.array([end - begin + 1]), False)


def _step_number(name: str) -> int | None:
    found = _NUMBER.search(name)
    return int(found[1]) if found is not None and int(found[1]) < 1 << 31 else None
