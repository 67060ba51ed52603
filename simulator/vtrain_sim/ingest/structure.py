"""What belongs to what in a trace: who launched a kernel, which step and which pass it was part of.

A kernel belongs to the innermost host event that was open when the host made the launching call: the
call is found by its correlation id. Backward operators are those inside autograd's evaluation of a node,
recomputed ones those inside the evaluation of a checkpoint.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from vtrain_schemas.kernel_names import kernel_kind
from vtrain_schemas.range_names import is_communication, range_rule
from vtrain_sim.ingest.nesting import Nesting, adopt, innermost, nest, sort_order
from vtrain_sim.ingest.notes import NOTED
from vtrain_sim.ingest.trace import KERNEL, MODULE, OPERATOR, RANGE, Bools, Events, Ints, Trace

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
        before = np.maximum(index, 0)
        inside = (index >= 0) & (at < self.start[before] + self.duration[before])
        return np.where(inside, self.number[before], OUTSIDE)


@dataclass(frozen=True)
class Structure:
    """Indices refer to `host` (sorted) and to the trace's device events.

    launcher: [device] host event, -1. launched_at: [device] time of the launching call, -1 where it is not
    in the trace. device_step: [device] step that launched it, `OUTSIDE` where that is not known. span: [host]
    innermost enclosing span, the event itself included, -1. phase: [host], index into `PHASES`. busy, self_time:
    [host] device time launched inside, and by the event itself, ns. first, last: [host] begin and end of that on the
    device. kinds: kind of each device event.
    """

    host: Events
    nesting: Nesting
    is_span: Bools
    span: Ints
    phase: Ints
    launcher: Ints
    launched_at: Ints
    busy: Ints
    self_time: Ints
    first: Ints
    last: Ints
    kinds: list[str]
    steps: Steps
    device_step: Ints
    host_step: Ints


def structure_of(trace: Trace) -> Structure:
    """Work out the structure of a trace, whose host events are sorted for it; remarks go into its notes."""
    nesting = _nest_host(trace)
    host, device = trace.host, trace.device
    _note_order(trace)
    launcher, launched_at = _launchers(trace, host, nesting)
    nesting = _adopt_backward(trace, host, nesting)
    self_time, first, last = _launched_work(trace, host, launcher)
    is_span, marks = _spans_and_marks(trace, host, nesting)
    steps = _steps(trace, host)
    return Structure(
        host=host,
        nesting=nesting,
        is_span=is_span,
        span=nesting.pass_down(np.where(is_span, np.arange(len(host)), -1), ~is_span),
        phase=nesting.pass_down(np.where(marks >= 0, marks, FORWARD), marks < 0),
        launcher=launcher,
        launched_at=launched_at,
        busy=nesting.add_up(self_time, np.add.at),
        self_time=self_time,
        first=nesting.add_up(first, np.minimum.at),
        last=nesting.add_up(last, np.maximum.at),
        kinds=[
            ("memory" if category != KERNEL else kernel_kind(trace.names[name]))
            for category, name in zip(device.category.tolist(), device.name.tolist(), strict=True)
        ],
        steps=steps,
        device_step=_launched_in(trace, steps, launched_at),
        host_step=steps.of(host.start),
    )


def _launched_in(trace: Trace, steps: Steps, launched_at: Ints) -> Ints:
    """[device] the step in which the host launched each device event; `OUTSIDE` for none, and where it is not known.

    By the time on the device, what one step launched would count in the next: the host runs ahead.
    """
    if not steps.marked:  # one step, of all that there is
        return steps.of(trace.device.start)
    known = launched_at >= 0
    inside = np.where(known, steps.of(launched_at), OUTSIDE)
    reason = "have no launching call in the trace: which step they are of is not known, step -1"
    trace.notes.add("kernels", NOTED, reason, int((~known).sum()))
    trace.notes.add("kernels", NOTED, "were launched outside every step: step -1", int((known & (inside < 0)).sum()))
    return inside


def _nest_host(trace: Trace) -> Nesting:
    """Sort the host events of a trace, in place, and nest them."""
    rows = sort_order(trace.host.thread, trace.host.start, trace.host.duration, trace.host.category)
    places = np.empty(len(rows), dtype=np.int64)
    places[rows] = np.arange(len(rows))
    trace.host_calls = {int(places[row]): call for row, call in trace.host_calls.items()}
    # The unsorted columns go: they are most of what a large trace takes.
    host = trace.host = trace.host.take(rows)
    nesting = nest(host.thread, host.start, host.duration)
    if nesting.overlapping.any():
        example = trace.names[int(host.name[int(np.flatnonzero(nesting.overlapping)[0])])]
        reason = "overlap another on their thread: put into the nearest that holds them"
        trace.notes.add("ranges", NOTED, reason, int(nesting.overlapping.sum()), example)
    return nesting


def _launched_work(trace: Trace, host: Events, launcher: Ints) -> tuple[Ints, Ints, Ints]:
    """[host] device time that each event launched itself, and its begin and end on the device, ns."""
    self_time = np.zeros(len(host), dtype=np.int64)
    first, last = np.full(len(host), _NEVER), np.full(len(host), -_NEVER)
    device, linked = trace.device, launcher >= 0
    np.add.at(self_time, launcher[linked], device.duration[linked])
    np.minimum.at(first, launcher[linked], device.start[linked])
    np.maximum.at(last, launcher[linked], (device.start + device.duration)[linked])
    return self_time, first, last


def _note_order(trace: Trace) -> None:
    """Count the kernels that stand before an earlier one of their stream in the file."""
    order = np.lexsort((trace.device.stream, trace.device.device))  # stable
    starts, streams, devices = (
        column[order] for column in (trace.device.start, trace.device.stream, trace.device.device)
    )
    late = int(((np.diff(starts) < 0) & (np.diff(streams) == 0) & (np.diff(devices) == 0)).sum())
    trace.notes.add("kernels", NOTED, "stand out of the order of time in the file: sorted", late)


def _launchers(trace: Trace, host: Events, nesting: Nesting) -> tuple[Ints, Ints]:
    """[device] the host event that launched each device event, and when; -1 where the trace does not tell."""
    device, launches = trace.device, trace.launches
    launcher = np.full(len(device), -1, dtype=np.int64)
    times = np.full(len(device), -1, dtype=np.int64)
    order = np.argsort(launches.correlation, kind="stable")
    known = launches.correlation[order]
    if len(known) and len(device):
        place = np.minimum(np.searchsorted(known, device.correlation), len(known) - 1)
        match = (known[place] == device.correlation) & (device.correlation >= 0)
        call = order[place[match]]
        times[match] = launches.start[call]
        launcher[match] = innermost(
            host.thread, host.start, host.duration, nesting, launches.thread[call], launches.start[call]
        )
    # Without the launching call, the profiler's own link; where it repeats the correlation id it is none.
    loose = (launcher < 0) & (device.external >= 0) & (device.external != device.correlation)
    if loose.any() and len(host):
        order = np.argsort(host.external, kind="stable")
        known = host.external[order]
        place = np.minimum(np.searchsorted(known, device.external[loose]), len(known) - 1)
        match = known[place] == device.external[loose]
        rows = np.flatnonzero(loose)[match]
        launcher[rows] = order[place[match]]
        times[rows] = np.where(times[rows] >= 0, times[rows], host.start[launcher[rows]])
    if len(host):
        reason = "not linked to an operator or range: none was open, or the launching call is not in the trace"
        trace.notes.add("kernels", NOTED, reason, int((launcher < 0).sum()))
    return launcher, times


def _adopt_backward(trace: Trace, host: Events, nesting: Nesting) -> Nesting:
    """Put what autograd runs on threads of its own into the range that waits for it on the training thread."""
    evaluates = np.array([name.startswith(EVALUATE) for name in trace.names], dtype=bool)
    # The training thread is the one whose steps are marked, else the one with most ranges.
    is_step = _named_steps(trace)[host.name] & (host.category == RANGE) if len(host) else np.empty(0, dtype=bool)
    telling = is_step if is_step.any() else host.category != OPERATOR
    if not telling.any():
        return nesting
    threads, counts = np.unique(host.thread[telling], return_counts=True)
    training = int(threads[counts.argmax()])
    autograd = np.unique(host.thread[evaluates[host.name] & (host.thread != training)])
    rows = np.flatnonzero((nesting.parent < 0) & np.isin(host.thread, autograd) & (host.category == OPERATOR))
    where = innermost(host.thread, host.start, host.duration, nesting, np.full(len(rows), training), host.start[rows])
    # Only ranges and modules wait: an operator that happens to run then does not.
    while (inside := (where >= 0) & (host.category[np.maximum(where, 0)] == OPERATOR)).any():
        where[inside] = nesting.parent[where[inside]]
    waited_for = where >= 0
    return adopt(nesting, rows[waited_for], where[waited_for]) if waited_for.any() else nesting


def _spans_and_marks(trace: Trace, host: Events, nesting: Nesting) -> tuple[Bools, Ints]:
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
    is_module = host.category == MODULE
    marks = np.where(is_module, -1, opens[host.name])
    # What records a graph is a forward pass: inside autograd's evaluation one that is run again, and within a
    # range around the backward pass one that merely stands there (the loss). So is what a module calls.
    inside = nesting.pass_down(evaluates[host.name], ~evaluates[host.name])
    around = nesting.pass_down(np.where(marks >= 0, marks, FORWARD), marks < 0)
    records = (host.category == OPERATOR) & (host.sequence >= 0) & ~autograd[host.name]
    records &= np.isin(around, (BACKWARD, DGRAD, WGRAD))
    marks[records] = np.where(inside[records], RECOMPUTE, FORWARD)
    marks[is_module & inside] = RECOMPUTE
    return (host.category != OPERATOR) & ~quiet[host.name], marks


def _named_steps(trace: Trace) -> Bools:
    """Which of the trace's names are those of training steps."""
    return np.array([(r := range_rule(n)) is not None and r.kind == "step" for n in trace.names], dtype=bool)


def _steps(trace: Trace, host: Events) -> Steps:
    if len(host):
        rows = np.flatnonzero((host.category == RANGE) & _named_steps(trace)[host.name])
        if len(rows):
            return _marked_steps(trace, host, rows)
    everything = [e for e in (host, trace.device) if len(e)]
    if not everything:
        nothing = np.empty(0, dtype=np.int64)
        return Steps(nothing, nothing, nothing, False)
    # The first launch may come before everything else.
    begin = min(int(e.start.min()) for e in (*everything, *([trace.launches] if len(trace.launches) else [])))
    end = max(int((e.start + e.duration).max()) for e in everything)
    trace.notes.add("steps", NOTED, "none is marked (ProfilerStep#): the whole trace counts as one step, number 0")
    return Steps(np.array([0]), np.array([begin]), np.array([end - begin + 1]), False)


def _marked_steps(trace: Trace, host: Events, rows: Ints) -> Steps:
    """Steps from the host events that mark them."""
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


def _step_number(name: str) -> int | None:
    match = _NUMBER.search(name)
    return int(match[1]) if match is not None and int(match[1]) < 1 << 31 else None
