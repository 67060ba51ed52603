"""Spans in which the device waited for launches are told from those in which it was behind."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from plugin.row_tables import by_table
from plugin.simulated_gpu import SimulatedGpu
from vtrain_plugin.capture.clock import CudaClock
from vtrain_plugin.capture.ranges import NoRanges
from vtrain_plugin.capture.recorder import Recorder
from vtrain_plugin.capture.rows import rows_of_step
from vtrain_plugin.capture.run_rows import environment_columns, rank_row
from vtrain_plugin.capture.sink import Sink
from vtrain_schemas.operators import Operator
from vtrain_sim.catalog import Catalog
from vtrain_sim.costs.measured import load_operators

torch = pytest.importorskip("torch")

HOST_NS, DEVICE_NS = 100_000, 30_000
GEMM = Operator("gemm", "forward", 64, 64, 64, dtype="bfloat16")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimulatedGpu:
    gpu = SimulatedGpu()
    monkeypatch.setattr(torch.cuda, "Event", gpu.Event)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 0, raising=False)
    monkeypatch.setattr("time.perf_counter_ns", gpu.clock)
    monkeypatch.setattr("time.time_ns", lambda: 10**18 + gpu.clock())
    return gpu


def rows(gpu: SimulatedGpu, behind: bool, steps: int = 1) -> dict[str, list[dict[str, Any]]]:
    """Three products on an idle queue, then, if the device is to be behind, three more after a long kernel."""
    recorder = Recorder(CudaClock(), NoRanges(), 1000)
    tables: dict[str, list[dict[str, Any]]] = {}
    for step in range(steps):
        recorder.start_step(step)
        for number in range(6 if behind else 3):
            if number == 3:
                gpu.launch(1_000, 50_000_000)
            span = recorder.new_span("linear", "linear", "forward")
            span.operator = GEMM
            recorder.open(span)
            gpu.launch(HOST_NS, DEVICE_NS)
            recorder.close(span)
        record = recorder.end_step()
        sealed = recorder.clock.seal_step()
        gpu.synchronize()
        assert sealed.ready()
        for table, of in by_table(rows_of_step(record, sealed.times(), "r", 0, lambda ranks: 1)).items():
            tables.setdefault(table, []).extend(of)
    return tables


def test_launch_gaps_are_flagged(gpu: SimulatedGpu) -> None:
    made = rows(gpu, behind=True)
    operators = sorted(made["operators"], key=lambda row: row["start_ns"])
    assert [row["host_bound"] for row in operators] == [True] * 3 + [False] * 3
    # On the idle queue a product seems to take what its launch takes.
    assert all(row["duration_ns"] >= HOST_NS for row in operators[:3])
    assert all(row["duration_ns"] == DEVICE_NS for row in operators[3:])
    spans = [row for row in made["spans"] if row["kind"] == "linear"]
    assert all(row["host_start_ns"] <= row["start_ns"] for row in made["spans"])
    assert all(row["host_duration_ns"] >= HOST_NS for row in spans)
    starts = [row["host_start_ns"] for row in sorted(spans, key=lambda row: row["start_ns"])]
    assert all(later - earlier >= HOST_NS for earlier, later in pairwise(starts))


def _catalog(path: Path, tables: dict[str, list[dict[str, Any]]]) -> Catalog:
    sink = Sink(str(path), "r", 0)
    for table, of in tables.items():
        sink.write(table, of)
    sink.write("runs", [{"run_id": "r", "source": "plugin", "clock_source": "cuda_event", **environment_columns()}])
    sink.write("ranks", [rank_row("r")])
    catalog = Catalog(path / "catalog.duckdb")
    catalog.add([str(path)])
    return catalog


@pytest.mark.parametrize("behind", [True, False])
def test_a_projection_uses_the_devices_own_time_where_there_is_one(
    gpu: SimulatedGpu, tmp_path: Path, behind: bool
) -> None:
    catalog = _catalog(tmp_path, rows(gpu, behind))
    with catalog.reading() as connection:
        measured = load_operators(connection, ["r"]).get(GEMM)
    assert measured is not None
    if behind:
        assert (measured.seconds, measured.calls) == (pytest.approx(DEVICE_NS / 1e9), 3)
    else:
        assert measured.seconds >= HOST_NS / 1e9


@pytest.mark.parametrize("behind", [True, False])
def test_check_says_where_the_device_waited(gpu: SimulatedGpu, tmp_path: Path, behind: bool) -> None:
    made = rows(gpu, behind)
    catalog = _catalog(tmp_path, made)
    said = [problem.what for problem in catalog.check() if "waited for launches" in problem.what]
    durations = [row["duration_ns"] for row in sorted(made["operators"], key=lambda row: row["start_ns"])]
    share = sum(durations[:3]) / sum(durations)
    assert share > 0.5 if behind else share == 1
    assert len(said) == 1
    assert f"in {share:.0%} of the operators' time" in said[0]
