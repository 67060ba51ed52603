"""Training steps of a trace: those that its host events mark, or the whole of it as one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vtrain_schemas.range_names import range_rule
from vtrain_sim.ingest.notes import NOTED, Notes
from vtrain_sim.ingest.trace import Bools, Events, Ints

OUTSIDE = -1
_NUMBER = re.compile(r"(\d+)\D*$")


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


def named_steps(names: Sequence[str]) -> Bools:
    """Which names are those of training steps."""
    return np.array([(r := range_rule(n)) is not None and r.kind == "step" for n in names], dtype=bool)


def one_step(begin: int, end: int, notes: Notes) -> Steps:
    """Everything from `begin` to `end`, ns, as one step."""
    notes.add("steps", NOTED, "none is marked (ProfilerStep#): the whole trace counts as one step, number 0")
    return Steps(np.array([0]), np.array([begin]), np.array([end - begin + 1]), False)


def no_steps() -> Steps:
    """Of a trace without events."""
    nothing = np.empty(0, dtype=np.int64)
    return Steps(nothing, nothing, nothing, False)


def marked_steps(marks: Events, names: Sequence[str], notes: Notes) -> Steps:
    """Steps from the host events that mark them, sorted by thread and time."""
    marks = marks.take(np.argsort(marks.start, kind="stable"))
    start, duration = marks.start, marks.duration
    outer = np.concatenate([[True], start[1:] >= np.maximum.accumulate(start + duration)[:-1]])
    notes.add("steps", NOTED, "lie inside another step: left to it", int((~outer).sum()))
    marks = marks.take(outer)
    numbers = [_step_number(names[int(n)]) for n in marks.name]
    if None in numbers or len(set(numbers)) < len(numbers):
        notes.add("steps", NOTED, "have no numbers of their own: numbered in order of time", len(marks))
        numbers = list(range(len(marks)))
    return Steps(np.array(numbers, dtype=np.int64), marks.start, marks.duration, True)


def _step_number(name: str) -> int | None:
    match = _NUMBER.search(name)
    return int(match[1]) if match is not None and int(match[1]) < 1 << 31 else None
