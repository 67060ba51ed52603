"""Steps are written after the capture, by a thread that asks no device, and none is lost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from vtrain_plugin.capture import output as output_module
from vtrain_plugin.capture.clock import HostClock, Mark, StepTimes
from vtrain_plugin.capture.guard import Guard
from vtrain_plugin.capture.output import Output
from vtrain_plugin.capture.ranges import NoRanges
from vtrain_plugin.capture.recorder import Recorder
from vtrain_plugin.capture.run_id import CaptureId
from vtrain_plugin.capture.settings import Settings

pytest.importorskip("torch")
TRAINING = threading.get_ident()


class _Sealed:
    """Marks of a device that is behind until told otherwise, and that only the training thread may ask."""

    def __init__(self, passed: Callable[[], bool]) -> None:
        self._passed = passed

    def ready(self) -> bool:
        assert threading.get_ident() == TRAINING
        return self._passed()

    def times(self) -> StepTimes:
        assert threading.get_ident() == TRAINING

        def resolve(mark: Mark) -> int:
            assert isinstance(mark, int)
            return mark

        return StepTimes(resolve, None)


class _Capture:
    """Some steps of ten spans each, and their output."""

    def __init__(
        self, out: Path, last: Callable[[], None] = lambda: None, traces: Callable[[], None] = lambda: None
    ) -> None:
        self.out = out
        self.guard = Guard()
        self.recorder = Recorder(HostClock(), NoRanges(), 1000)
        framework = SimpleNamespace(describe_run=dict, describe_rank=dict)
        self.output = Output(
            CaptureId(0, 0, None),
            self.recorder,
            framework,  # type: ignore[arg-type]
            Settings(str(out), run_id="run"),
            "plugin",
            [],
            self.guard,
            traces,
            last,
        )

    def step(self, number: int, passed: Callable[[], bool] = lambda: True) -> None:
        self.output.begin_step()
        self.recorder.start_step(number)
        for _ in range(10):
            span = self.recorder.new_span("layer", "layer", "forward")
            self.recorder.open(span)
            self.recorder.close(span)
        self.output.add(self.recorder.end_step(), _Sealed(passed))

    def files(self, table: str) -> list[Path]:
        return sorted(self.out.glob(f"run_id=run/table={table}/*.parquet"))

    def steps(self) -> list[int]:
        return [step for file in self.files("steps") for step in pq.read_table(file)["step"].to_pylist()]


def test_nothing_is_written_before_the_capture_is_over_and_then_one_file_a_table(tmp_path: Path) -> None:
    said: list[list[int]] = []
    capture = _Capture(tmp_path, lambda: said.append(capture.steps()))
    for step in range(3):
        capture.step(step)
    assert not list(tmp_path.iterdir())
    assert capture.output.end()
    capture.output.finish()
    assert capture.steps() == [0, 1, 2]
    assert {table: len(capture.files(table)) for table in ("runs", "ranks", "steps", "spans")} == {
        "runs": 1,
        "ranks": 1,
        "steps": 1,
        "spans": 1,
    }
    assert said == [[0, 1, 2]], "what comes last comes after the rows"


def test_a_device_that_is_behind_holds_nobody_up(tmp_path: Path) -> None:
    capture, passed = _Capture(tmp_path), threading.Event()
    capture.step(0, passed.is_set)
    assert not capture.output.end()
    assert not capture.output.end()
    passed.set()
    assert capture.output.end()
    assert capture.output.written.wait(30)
    assert capture.steps() == [0]
    assert not capture.guard.failed


def test_steps_that_the_device_never_passes_are_said_and_the_others_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output_module, "PATIENCE_S", 0.01)
    capture = _Capture(tmp_path)
    capture.step(0)
    capture.step(1, lambda: False)
    capture.output.finish()
    assert capture.steps() == [0]
    assert "1 captured steps are lost" in capsys.readouterr().err


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never happened")


def test_a_long_capture_is_written_while_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_module, "MANY_ROWS", 25)
    capture = _Capture(tmp_path)
    for step in range(12):
        capture.step(step)
    wait_for(lambda: capture.files("steps"))
    # A killed job has what the run is beside its first rows.
    assert [file.name for file in capture.files("runs")] == ["rank=00000.parquet"]
    capture.output.finish()
    assert capture.steps() == list(range(12))
    for table in ("runs", "ranks", "steps", "spans"):
        assert [file.name for file in capture.files(table)] == ["rank=00000.parquet"]


def test_a_long_step_is_written_as_soon_as_it_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_module, "LONG_S", 0.0)
    capture = _Capture(tmp_path)
    for step in range(3):
        capture.step(step)
        wait_for(lambda: len(capture.steps()) == step + 1)  # noqa: B023
    assert [file.name for file in capture.files("steps")] == [f"rank=00000.part00{part}.parquet" for part in range(3)]
    capture.output.finish()
    assert [file.name for file in capture.files("steps")] == ["rank=00000.parquet"]
    assert capture.steps() == [0, 1, 2]


def test_a_long_step_of_a_device_that_is_behind_is_written_when_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module, "LONG_S", 0.0)
    capture, passed = _Capture(tmp_path), threading.Event()
    capture.step(0, passed.is_set)
    assert not list(tmp_path.iterdir())
    passed.set()
    capture.output.begin_step()
    wait_for(lambda: capture.steps() == [0])
    capture.output.finish()


def test_steps_of_a_device_that_is_always_behind_are_not_written_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    capture = _Capture(tmp_path)
    monkeypatch.setattr(output_module, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))
    wrote: list[float] = []
    monkeypatch.setattr(capture.output, "_write_soon", lambda: wrote.append(now[0]))
    current = [0]

    def passed(number: int) -> Callable[[], bool]:
        return lambda: current[0] > number

    for number in range(40):
        current[0] = number
        now[0] = number * 1.0
        capture.step(number, passed(number))
    assert wrote == [10.0, 20.0, 30.0]


def test_rows_come_before_traces_and_traces_before_the_merging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_module, "LONG_S", 0.0)
    seen: list[tuple[str, list[int], int]] = []

    def see(what: str) -> None:
        seen.append((what, capture.steps(), len(capture.files("steps"))))

    capture = _Capture(tmp_path, lambda: see("last"), lambda: see("traces"))
    for step in range(2):
        capture.step(step)
        wait_for(lambda: len(capture.steps()) == step + 1)  # noqa: B023
    capture.output.finish()
    assert seen == [("traces", [0, 1], 2), ("last", [0, 1], 1)]


def test_parts_that_cannot_be_merged_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output_module, "LONG_S", 0.0)
    said: list[str] = []
    capture = _Capture(tmp_path, lambda: said.append("captured"))
    for step in range(2):
        capture.step(step)
        wait_for(lambda: len(capture.steps()) == step + 1)  # noqa: B023

    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    capture.output.finish()
    assert capture.steps() == [0, 1]
    assert len(capture.files("steps")) == len(capture.files("spans")) == 2
    assert not list(tmp_path.rglob("*.tmp"))
    assert said == ["captured"]
    assert not capture.guard.failed
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "could not be merged into one per table (OSError: [Errno 28] No space left on device)" in sentence


def test_a_process_that_starts_no_threads_any_more_writes_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    capture = _Capture(tmp_path)
    capture.step(0)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    capture.output.finish()
    assert capture.steps() == [0]


def test_a_failure_leaves_nothing_half_written(tmp_path: Path) -> None:
    said: list[str] = []
    capture = _Capture(tmp_path, lambda: said.append("captured"))
    capture.step(0)
    capture.output.drop()
    capture.output.finish()
    assert not list(tmp_path.rglob("*.parquet"))
    assert not said


def test_a_disk_that_hangs_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    release = threading.Event()
    monkeypatch.setattr(output_module, "DISK_PATIENCE_S", 0.05)
    monkeypatch.setattr(output_module.Sink, "write", lambda sink, table, rows, more=False: release.wait(30))
    capture = _Capture(tmp_path)
    capture.step(0)
    capture.output.finish()
    assert not capture.output.written.is_set()
    release.set()
    assert "nothing was written" in capsys.readouterr().err


def test_a_forked_child_ends_without_its_parents_steps(tmp_path: Path) -> None:
    capture = _Capture(tmp_path)
    capture.step(0)
    child = os.fork()
    if not child:
        capture.output.finish()
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert not list(tmp_path.rglob("*.parquet"))
    capture.output.finish()
    assert capture.steps() == [0]


def test_rows_that_were_dropped_in_any_step_are_counted(tmp_path: Path) -> None:
    capture = _Capture(tmp_path)
    for step in range(3):
        capture.recorder.dropped += 5
        capture.step(step)
    capture.output.finish()
    (file,) = capture.files("ranks")
    assert pq.read_table(file)["dropped_rows"].to_pylist() == [15]


def test_a_failing_disk_switches_the_capture_off_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run_id=run").write_text("a file where a directory should be")
    capture = _Capture(tmp_path)
    capture.step(0)
    capture.output.finish()
    assert capture.guard.failed
    assert capsys.readouterr().err.count("capture switched off, training goes on") == 1
