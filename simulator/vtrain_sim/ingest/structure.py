"""What belongs to what in a trace: who launched a kernel, which step and which pass it was part of.

A kernel belongs to the innermost host event that was open when the host made the launching call: the
call is found by its correlation id. Backward operators are those inside autograd's evaluation of a node,
recomputed ones those inside the evaluation of a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vtrain_schemas.kernel_names import kernel_kind
from vtrain_schemas.range_names import is_communication, range_rule
from vtrain_sim.ingest.cuts import SLACK_NS
from vtrain_sim.ingest.facts import EVALUATE, Facts
from vtrain_sim.ingest.nesting import Nesting, adopt, innermost, nest, sort_order
from vtrain_sim.ingest.notes import NOTED
from vtrain_sim.ingest.spool import concatenated
from vtrain_sim.ingest.steps import OUTSIDE, Steps
from vtrain_sim.ingest.trace import HOST, KERNEL, MODULE, OPERATOR, Bools, Events, Ints, Trace

PHASES = ("forward", "backward", "recompute", "update", "dgrad", "wgrad")
FORWARD, BACKWARD, RECOMPUTE, UPDATE, DGRAD, WGRAD = range(6)
_NEVER = np.iinfo(np.int64).max
_NUMBERED = (*HOST, "number")


class Carried:
    """What one window of a trace hands to the next: the ranges that are open at its end, and how many host events of
    each thread came before.

    Host events are numbered as they stand sorted by thread, whatever the windows.
    """

    def __init__(self, facts: Facts) -> None:
        self.open = concatenated(_NUMBERED, [])
        self._next = np.concatenate([[0], np.cumsum(facts.host_rows)])[:-1].astype(np.int64)

    def number(self, host: Events) -> None:
        """Number the sorted host events that have no number (-1)."""
        new = np.flatnonzero(host.number < 0)
        thread = host.thread[new]
        place = np.arange(len(new)) - np.searchsorted(thread, thread)
        host.number[new] = self._next[thread] + place
        self._next += np.bincount(thread, minlength=len(self._next))


@dataclass(frozen=True)
class Structure:
    """Indices refer to `host` (sorted) and to the trace's device events. `host` begins with ranges of earlier windows
    that are still open; its column `number` is the event's place in the whole trace.

    begun: [host] whether the event begins in this window. open: [host] whether it is open at its end. launcher:
    [device] host event, -1. launched_at, launch_time: [device] start and duration of the launching call, ns, -1 where
    it is not in the trace.
    device_step: [device] step that launched it, `OUTSIDE` where that is not known. span: [host] innermost enclosing
    span, the event itself included, -1. phase: [host], index into `PHASES`. busy, self_time: [host] device time
    launched inside, and by the event itself, ns. first, last: [host] begin and end of that on the device. kinds: kind
    of each device event.
    """

    host: Events
    begun: Bools
    open: Bools
    nesting: Nesting
    is_span: Bools
    span: Ints
    phase: Ints
    launcher: Ints
    launched_at: Ints
    launch_time: Ints
    busy: Ints
    self_time: Ints
    first: Ints
    last: Ints
    kinds: list[str]
    steps: Steps
    device_step: Ints
    host_step: Ints

    def numbers_of(self, rows: Ints) -> Ints:
        """Numbers in the whole trace of host events; -1 for -1."""
        if not len(self.host):
            return rows
        numbers: Ints = np.where(rows >= 0, self.host.number[np.maximum(rows, 0)], -1)
        return numbers


def is_compute(kind: str) -> bool:
    """Whether kernels of a kind compute."""
    return kind not in ("communication", "memory")


def structure_of(trace: Trace, facts: Facts, carried: Carried) -> Structure:
    """Work out the structure of a window, whose host events are sorted for it; remarks go into its notes.

    carried: what the window before it left, which becomes what this one leaves.
    """
    nesting, begun = _nest_host(trace, carried)
    host, device = trace.host, trace.device
    over = (host.category != OPERATOR) & (host.start + host.duration + SLACK_NS >= trace.end)
    carried.open = host.take(over)
    launcher, launched_at, launch_time = _launchers(trace, facts, nesting)
    nesting = _adopt_backward(facts, host, nesting)
    self_time, first, last = _launched_work(trace, host, launcher)
    is_span, marks = _spans_and_marks(trace, host, nesting)
    steps = facts.steps
    return Structure(
        host=host,
        begun=begun,
        open=over,
        nesting=nesting,
        is_span=is_span,
        span=nesting.pass_down(np.where(is_span, np.arange(len(host)), -1), ~is_span),
        phase=nesting.pass_down(np.where(marks >= 0, marks, FORWARD), marks < 0),
        launcher=launcher,
        launched_at=launched_at,
        launch_time=launch_time,
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


def _nest_host(trace: Trace, carried: Carried) -> tuple[Nesting, Bools]:
    """Sort the host events of a window, in place, with those open from before, and nest them; which begin in it."""
    trace.host.columns["number"] = np.full(len(trace.host), -1, dtype=np.int64)
    if len(carried.open):
        trace.host = concatenated(_NUMBERED, [trace.host, carried.open])
    rows = sort_order(trace.host.thread, trace.host.start, trace.host.duration, trace.host.category)
    places = np.empty(len(rows), dtype=np.int64)
    places[rows] = np.arange(len(rows))
    trace.host_calls = {int(places[row]): call for row, call in trace.host_calls.items()}
    # The unsorted columns go: they are most of what a large trace takes.
    host = trace.host = trace.host.take(rows)
    begun = host.number < 0
    carried.number(host)
    nesting = nest(host.thread, host.start, host.duration)
    overlapping = nesting.overlapping & begun
    if overlapping.any():
        example = trace.names[int(host.name[int(np.flatnonzero(overlapping)[0])])]
        reason = "overlap another on their thread: put into the nearest that holds them"
        trace.notes.add("ranges", NOTED, reason, int(overlapping.sum()), example)
    return nesting, begun


def _launched_work(trace: Trace, host: Events, launcher: Ints) -> tuple[Ints, Ints, Ints]:
    """[host] device time that each event launched itself, and its begin and end on the device, ns."""
    self_time = np.zeros(len(host), dtype=np.int64)
    first, last = np.full(len(host), _NEVER), np.full(len(host), -_NEVER)
    device, linked = trace.device, launcher >= 0
    np.add.at(self_time, launcher[linked], device.duration[linked])
    np.minimum.at(first, launcher[linked], device.start[linked])
    np.maximum.at(last, launcher[linked], (device.start + device.duration)[linked])
    return self_time, first, last


def _launchers(trace: Trace, facts: Facts, nesting: Nesting) -> tuple[Ints, Ints, Ints]:
    """[device] the host event that launched each device event, when, and how long the call for it took; -1 where the
    trace does not tell."""
    host, device, launches = trace.host, trace.device, trace.launches
    launcher = np.full(len(device), -1, dtype=np.int64)
    times, lasting = (np.full(len(device), -1, dtype=np.int64) for _ in range(2))
    order = np.argsort(launches.correlation, kind="stable")
    known = launches.correlation[order]
    if len(known) and len(device):
        place = np.minimum(np.searchsorted(known, device.correlation), len(known) - 1)
        match = (known[place] == device.correlation) & (device.correlation >= 0)
        call = order[place[match]]
        times[match], lasting[match] = launches.start[call], launches.duration[call]
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
    if facts.host_rows.any():
        reason = "not linked to an operator or range: none was open, or the launching call is not in the trace"
        trace.notes.add("kernels", NOTED, reason, int((launcher < 0).sum()))
    return launcher, times, lasting


def _adopt_backward(facts: Facts, host: Events, nesting: Nesting) -> Nesting:
    """Put what autograd runs on threads of its own into the range that waits for it on the training thread."""
    rows = np.flatnonzero((nesting.parent < 0) & np.isin(host.thread, facts.autograd) & (host.category == OPERATOR))
    training = np.full(len(rows), facts.training)
    where = innermost(host.thread, host.start, host.duration, nesting, training, host.start[rows])
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
