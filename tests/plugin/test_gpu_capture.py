"""What a capture measures on a CUDA GPU: its marks, its thread, and what it must leave alone. ``pytest -m gpu``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from plugin.row_tables import by_table
from vtrain_plugin.capture.clock import CudaClock
from vtrain_plugin.capture.guard import Guard
from vtrain_plugin.capture.output import Output
from vtrain_plugin.capture.ranges import NoRanges
from vtrain_plugin.capture.recorder import Recorder
from vtrain_plugin.capture.rows import rows_of_step
from vtrain_plugin.capture.run_id import CaptureId
from vtrain_plugin.capture.settings import Settings
from vtrain_schemas.operators import Operator

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.version.cuda is None or not torch.cuda.is_available(), reason="no CUDA GPU"),
]
GEMM = Operator("gemm", "forward", 4096, 4096, 4096, dtype="bfloat16")


def matrices() -> tuple[Any, Any]:
    a = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    a @ a  # loads the kernel
    torch.cuda.synchronize()
    return a, torch.empty_like(a)


def record(recorder: Recorder, work: Callable[[], object], calls: int, before: Callable[[], object]) -> None:
    for _ in range(calls):
        before()
        span = recorder.new_span("linear", "linear", "forward")
        span.operator = GEMM
        recorder.open(span)
        work()
        recorder.close(span)


def rows(work: Callable[[], object], calls: int, before: Callable[[], object]) -> dict[str, list[dict[str, Any]]]:
    """Rows of one step in which `work` is a product. before: called before each."""
    recorder = Recorder(CudaClock(), NoRanges(), 10_000)
    recorder.start_step(0)
    record(recorder, work, calls, before)
    step = recorder.end_step()
    sealed = recorder.clock.seal_step()
    torch.cuda.synchronize()
    assert sealed.ready()
    return by_table(rows_of_step(step, sealed.times(), "r", 0, lambda ranks: 1))


def test_products_behind_a_full_queue_are_the_devices_own() -> None:
    a, out = matrices()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(100_000_000)
    begin.record()
    for _ in range(50):
        torch.mm(a, a, out=out)
    end.record()
    torch.cuda.synchronize()
    alone_ns = begin.elapsed_time(end) * 1e6 / 50
    held: list[bool] = []

    def hold() -> None:
        if not held:
            torch.cuda._sleep(100_000_000)
        held.append(True)

    operators = rows(lambda: torch.mm(a, a, out=out), 50, hold)["operators"][1:]
    assert not any(row["host_bound"] for row in operators)
    mean_ns = sum(row["duration_ns"] for row in operators) / len(operators)
    assert mean_ns == pytest.approx(alone_ns, rel=0.1)


def test_products_on_an_idle_queue_are_flagged() -> None:
    a, out = matrices()
    operators = rows(lambda: torch.mm(a, a, out=out), 10, torch.cuda.synchronize)["operators"]
    assert all(row["host_bound"] for row in operators[1:])


def test_a_span_on_a_side_stream_has_its_stream() -> None:
    a, out = matrices()
    side = torch.cuda.Stream()
    recorder = Recorder(CudaClock(), NoRanges(), 100)
    recorder.start_step(0)
    with torch.cuda.stream(side):
        record(recorder, lambda: torch.mm(a, a, out=out), 1, lambda: None)
    record(recorder, lambda: torch.mm(a, a), 1, lambda: None)
    step, sealed = recorder.end_step(), recorder.clock.seal_step()
    torch.cuda.synchronize()
    spans = by_table(rows_of_step(step, sealed.times(), "r", 0, lambda ranks: 1))["spans"]
    assert [row["stream"] for row in spans if row["name"] == "linear"] == [side.cuda_stream, None]


def test_a_cuda_graph_may_be_captured_while_the_thread_writes(tmp_path: Path) -> None:
    """In torch's strictest mode a call from any thread that asks the device would invalidate the graph."""
    a, out = matrices()
    guard, writing = Guard(), threading.Event()
    recorder = Recorder(CudaClock(), NoRanges(), 100_000)
    output = Output(
        CaptureId(0, 0, None),
        recorder,
        SimpleNamespace(describe_run=dict, describe_rank=dict),  # type: ignore[arg-type]
        Settings(str(tmp_path), run_id="run"),
        "plugin",
        [],
        guard,
        writing.set,
    )
    recorder.start_step(0)
    record(recorder, lambda: None, 10_000, lambda: None)
    output.add(recorder.end_step(), recorder.clock.seal_step())
    torch.cuda.synchronize()
    assert output.end()
    assert not output.written.is_set()
    graph = torch.cuda.CUDAGraph()
    graphs = 0
    while graphs < 3 or not output.written.is_set():
        with torch.cuda.graph(graph, capture_error_mode="global"):
            torch.mm(a, a, out=out)
        graph.replay()
        torch.cuda.synchronize()
        graphs += 1
    assert not guard.failed
    assert writing.is_set()
    (file,) = tmp_path.glob("run_id=run/table=spans/*.parquet")
    assert pq.read_table(file).num_rows == 10_001
