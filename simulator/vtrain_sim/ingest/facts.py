"""What shows only in a whole trace, and what each window of it needs to know."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vtrain_sim.ingest.call_names import DISPATCH, is_mark
from vtrain_sim.ingest.nesting import sort_order
from vtrain_sim.ingest.notes import NOTED, Notes
from vtrain_sim.ingest.spool import concatenated
from vtrain_sim.ingest.steps import Steps, marked_steps, named_steps, no_steps, one_step
from vtrain_sim.ingest.trace import OPERATOR, RANGE, Bools, Events, Ints

EVALUATE = "autograd::engine::evaluate_function: "
_MARKS = ("category", "thread", "start", "duration", "name")


@dataclass(frozen=True)
class Facts:
    """training: thread whose steps are marked, else the one with most ranges; -1 for none. autograd: other threads
    that evaluate nodes of a graph. host_rows: [threads] host events. range_externals: external ids of annotated ranges.
    has_operators, has_sizes: whether there are operators, and any with its input sizes. backend_marks: whether calls
    of communication have marks other than the framework's dispatch. begin: of the first event, ns; 0 without any.
    """

    steps: Steps
    training: int
    autograd: Ints
    host_rows: Ints
    range_externals: Ints
    has_operators: bool
    has_sizes: bool
    backend_marks: bool
    begin: int


def facts_of(
    names: Sequence[str], host: Iterable[Events], device: Iterable[Events], launches: Iterable[Events], notes: Notes
) -> Facts:
    """Gather the facts from blocks of events; remarks go into the notes."""
    hosts = _Hosts(names)
    for block in host:
        hosts.add(block)
    extents, late = _device_extents(device)
    extents += hosts.extents
    notes.add("kernels", NOTED, "stand out of the order of time in the file: sorted", late)
    first = min((begin for begin, _ in extents), default=0)
    if hosts.marks:
        marks = concatenated(_MARKS, hosts.marks)
        rows = sort_order(marks.thread, marks.start, marks.duration, marks.category)
        steps = marked_steps(marks.take(rows), names, notes)
    elif extents:
        # The first launch may come before everything else.
        starts = [int(block.start.min()) for block in launches if len(block)]
        steps = one_step(min([first, *starts]), max(end for _, end in extents), notes)
    else:
        steps = no_steps()
    telling = hosts.step_rows if hosts.step_rows.any() else hosts.other_rows
    training = int(telling.argmax()) if telling.any() else -1
    evaluating = np.flatnonzero(hosts.evaluations)
    return Facts(
        steps=steps,
        training=training,
        autograd=evaluating[evaluating != training],
        host_rows=hosts.rows,
        range_externals=np.concatenate([np.empty(0, dtype=np.int64), *hosts.externals]),
        has_operators=hosts.has_operators,
        has_sizes=hosts.has_sizes,
        backend_marks=bool((hosts.used & hosts.marks_call & ~hosts.dispatches).any()),
        begin=first,
    )


class _Hosts:
    """Facts of the host events, block by block."""

    def __init__(self, names: Sequence[str]) -> None:
        self.is_step = named_steps(names)
        self.evaluates = flags(names, lambda n: n.startswith(EVALUATE))
        self.marks_call = flags(names, is_mark)
        self.dispatches = flags(names, lambda n: n.startswith(DISPATCH))
        self.used = np.zeros(len(names), dtype=bool)
        # By thread: all events, those of steps, those that are no operators, evaluations of nodes.
        self.rows = self.step_rows = self.other_rows = self.evaluations = np.empty(0, dtype=np.int64)
        self.marks: list[Events] = []
        self.externals: list[Ints] = []
        self.has_operators = self.has_sizes = False
        self.extents: list[tuple[int, int]] = []

    def add(self, block: Events) -> None:
        if not len(block):
            return
        thread, is_range, is_operator = block.thread, block.category == RANGE, block.category == OPERATOR
        is_step = is_range & self.is_step[block.name]
        self.rows = _counted(self.rows, thread)
        self.step_rows = _counted(self.step_rows, thread[is_step])
        self.other_rows = _counted(self.other_rows, thread[~is_operator])
        self.evaluations = _counted(self.evaluations, thread[self.evaluates[block.name]])
        self.used[block.name] = True
        if is_step.any():
            self.marks.append(Events({name: block.columns[name][is_step] for name in _MARKS}))
        self.externals.append(block.external[is_range & (block.external >= 0)])
        self.has_operators |= bool(is_operator.any())
        self.has_sizes |= bool((is_operator & (block.signature >= 0)).any())
        self.extents.append(_extent(block))


def flags(names: Sequence[str], applies: Callable[[str], bool]) -> Bools:
    """[names] to which of them something applies."""
    return np.array([applies(name) for name in names], dtype=bool)


def _counted(counts: Ints, numbers: Ints) -> Ints:
    """Counts by number, with more of them."""
    more = np.bincount(numbers, minlength=len(counts))
    more[: len(counts)] += counts
    return more


def _extent(block: Events) -> tuple[int, int]:
    return int(block.start.min()), int((block.start + block.duration).max())


def _device_extents(blocks: Iterable[Events]) -> tuple[list[tuple[int, int]], int]:
    """Begin and end of each block, ns, and how many events stand before an earlier one of their stream in the file."""
    extents: list[tuple[int, int]] = []
    late = 0
    latest: dict[tuple[int, int], int] = {}
    for block in blocks:
        if not len(block):
            continue
        extents.append(_extent(block))
        for device, stream in np.unique(np.stack([block.device, block.stream], axis=1), axis=0).tolist():
            starts = block.start[(block.device == device) & (block.stream == stream)]
            late += int((np.diff(starts, prepend=latest.get((device, stream), starts[0])) < 0).sum())
            latest[device, stream] = int(starts[-1])
    return extents, late
