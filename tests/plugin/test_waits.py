"""Waits for communication: what a fake NCCL's work items hold up, and what they do not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from plugin.row_tables import by_table
from plugin.test_units import _Ticks
from vtrain_plugin.capture.clock import StepTimes
from vtrain_plugin.capture.collectives import CallRecorder
from vtrain_plugin.capture.guard import Guard
from vtrain_plugin.capture.ranges import NoRanges
from vtrain_plugin.capture.recorder import Call, Recorder
from vtrain_plugin.capture.rows import rows_of_step

pytest.importorskip("torch")


class _Session:
    """A session in a step of its own."""

    def __init__(self) -> None:
        self.clock = _Ticks()
        self.guard = Guard()
        self.recorder = Recorder(self.clock, NoRanges(), 100)  # type: ignore[arg-type]
        self.recorder.start_step(0)
        self.patches = None

    def recording(self) -> Recorder:
        return self.recorder

    def backward_span(self) -> None:
        return None

    def rows(self) -> list[dict[str, Any]]:
        rows = by_table(
            rows_of_step(self.recorder.end_step(), StepTimes(lambda mark: mark, None), "r", 0, lambda ranks: None)
        )
        assert rows["steps"][0]["duration_ns"] == self.clock.at
        return rows["collectives"]


def _calls(session: _Session) -> tuple[CallRecorder, list[Call]]:
    recorder = CallRecorder(session, SimpleNamespace())  # type: ignore[arg-type]
    root = session.recorder.current()
    now = session.clock.now()
    return recorder, [Call(op, "pp", 8, "float32", (0, 1), 0, True, root, now) for op in ("send", "recv")]


def test_the_one_wait_of_a_batch_is_counted_once() -> None:
    """NCCL makes one work item of a batch: 20 ns of waiting in a step of 21 ns are not 40."""
    session = _Session()
    recorder, calls = _calls(session)
    work = SimpleNamespace()
    recorder._issued_batch(calls, [work])  # type: ignore[list-item]
    session.clock.at += 1
    waiting = recorder._begin_wait(work)  # type: ignore[arg-type]
    assert waiting is not None
    session.clock.at += 20
    recorder._waited(*waiting)
    assert {row["op"]: row["exposed_ns"] for row in session.rows()} == {"send": 0, "recv": 20}


def test_each_work_item_of_a_batch_has_its_own_wait() -> None:
    session = _Session()
    recorder, calls = _calls(session)
    works = [SimpleNamespace(), SimpleNamespace()]
    recorder._issued_batch(calls, works)  # type: ignore[arg-type]
    for work, ns in zip(works, (5, 7), strict=True):
        waiting = recorder._begin_wait(work)  # type: ignore[arg-type]
        assert waiting is not None
        session.clock.at += ns
        recorder._waited(*waiting)
    assert {row["op"]: row["exposed_ns"] for row in session.rows()} == {"send": 5, "recv": 7}


def test_a_wait_on_a_side_stream_holds_up_that_stream_alone() -> None:
    session = _Session()
    recorder, calls = _calls(session)
    work = SimpleNamespace()
    recorder._issued_batch(calls, [work])  # type: ignore[list-item]
    session.clock.stream = 3
    waiting = recorder._begin_wait(work)  # type: ignore[arg-type]
    assert waiting is not None
    session.clock.at += 20
    recorder._waited(*waiting)
    rows = session.rows()
    assert [row["exposed_ns"] for row in rows] == [0, 0]
    # When the device was done the host does not know.
    assert [row["duration_ns"] for row in rows] == [None, None]


@pytest.mark.parametrize(("source", "exposed_ns"), [("host", 4 + 20), ("cuda_event", 20)])
def test_time_in_the_issuing_call_holds_up_a_processor_alone(source: str, exposed_ns: int) -> None:
    """Gloo sends within the call that should only begin to."""
    session = _Session()
    session.clock.source = source
    recorder, calls = _calls(session)
    session.clock.at += 4
    work = SimpleNamespace()
    recorder._issued_batch(calls, [work])  # type: ignore[list-item]
    waiting = recorder._begin_wait(work)  # type: ignore[arg-type]
    assert waiting is not None
    session.clock.at += 20
    recorder._waited(*waiting)
    assert {row["op"]: row["exposed_ns"] for row in session.rows()} == {"send": 0, "recv": exposed_ns}


def test_a_wait_for_work_of_the_step_before_is_a_call_of_this_step() -> None:
    session = _Session()
    recorder, calls = _calls(session)
    work = SimpleNamespace()
    recorder._issued_batch(calls, [work])  # type: ignore[list-item]
    session.clock.at += 3
    first = session.rows()
    assert {row["op"]: row["exposed_ns"] for row in first} == {"send": 0, "recv": 0}
    session.clock.at = 0
    session.recorder.start_step(1)
    waiting = recorder._begin_wait(work)  # type: ignore[arg-type]
    assert waiting is not None
    session.clock.at += 20
    recorder._waited(*waiting)
    (row,) = session.rows()
    assert (row["step"], row["op"], row["exposed_ns"]) == (1, "recv", 20)
