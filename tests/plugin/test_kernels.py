"""``--kernels``: the profiler's own writer leaves one trace per step and rank, and the catalog reads it into the run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from vtrain_plugin.capture.kineto import KinetoCapture
from vtrain_plugin.capture.patches import Patches
from vtrain_plugin.capture.profiler_watch import ProfilerWatch
from vtrain_plugin.capture.sink import Sink
from vtrain_schemas.layout import parse_trace_name, ranks_path, trace_path
from vtrain_schemas.merged import Replaced, replaced_metadata
from vtrain_sim.catalog import Catalog

torch = pytest.importorskip("torch")


def gpu_trace() -> dict[str, Any]:
    """One GEMM with its kernel, one NCCL kernel with its metadata, and a kernel that ran after the step."""
    return {
        "baseTimeNanoseconds": 1_000_000,
        "traceEvents": [
            {
                "ph": "X",
                "cat": "cpu_op",
                "name": "aten::mm",
                "ts": 10,
                "dur": 5,
                "args": {
                    "External id": 7,
                    "Input Dims": [[4, 8], [8, 6]],
                    "Input type": ["c10::BFloat16", "c10::BFloat16"],
                },
            },
            {
                "ph": "X",
                "cat": "kernel",
                "name": "gemm_kernel",
                "ts": 20,
                "dur": 2.5,
                "args": {"External id": 7, "stream": 7, "correlation": 99},
            },
            {
                "ph": "X",
                "cat": "kernel",
                "name": "ncclDevKernel_AllReduce",
                "ts": 30,
                "dur": 4,
                "args": {
                    "stream": 20,
                    "correlation": 100,
                    "Collective name": "allreduce",
                    "In msg nelems": 1024,
                    "Out msg nelems": 1024,
                    "dtype": "BFloat16",
                    "Process Group Description": "TENSOR_MODEL_PARALLEL_GROUP",
                    "Process Group Ranks": "[0, 1]",
                },
            },
            {"ph": "X", "cat": "kernel", "name": "outside", "ts": 5000, "dur": 1, "args": {}},
            {"ph": "i", "name": "instant", "ts": 1},
        ],
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of rank 3 with a step and the trace of it."""
    sink = Sink(str(tmp_path), "r", 3)
    sink.write("steps", [{"run_id": "r", "rank": 3, "step": 7, "start_ns": 1, "duration_ns": 2}])
    sink.write_trace(7, lambda path: Path(path).write_text(json.dumps(gpu_trace())) and None)
    return tmp_path


def test_a_trace_becomes_kernels_operators_and_collectives_of_its_step(run: Path) -> None:
    catalog = Catalog(run / "c.duckdb")
    assert not catalog.add([str(run)]).notices
    kernels = catalog.sql("SELECT * FROM kernels ORDER BY start_ns").to_pylist()
    assert [(k["name"], k["stream"], k["correlation"], k["operator"], k["duration_ns"]) for k in kernels] == [
        ("gemm_kernel", 7, 99, "aten::mm", 2500),
        ("ncclDevKernel_AllReduce", 20, 100, None, 4000),
        ("outside", None, None, None, 1000),
    ]
    assert {(k["run_id"], k["rank"], k["step"]) for k in kernels} == {("r", 3, 7)}, "late kernels are the step's too"
    (operator,) = catalog.sql("SELECT * FROM operators").to_pylist()
    assert [operator[c] for c in ("kind", "m", "n", "k", "dtype")] == ["gemm", 4, 6, 8, "bfloat16"]
    assert (operator["step"], operator["span_id"], operator["source"]) == (7, None, "kineto")
    assert operator["duration_ns"] == 2500, "a GPU operator takes as long as its kernels"
    (call,) = catalog.sql("SELECT * FROM collectives").to_pylist()
    assert [call[c] for c in ("op", "role", "bytes", "group_ranks", "step")] == ["all_reduce", "tp", 2048, [0, 1], 7]
    assert catalog.sql("SELECT * FROM steps").num_rows == 1, "steps and spans are the hooks'"


def test_a_trace_is_read_once(run: Path) -> None:
    catalog = Catalog(run / "c.duckdb")
    catalog.add([str(run / "run_id=r")])
    files = {path: path.stat().st_mtime_ns for path in run.rglob("*.parquet")}
    assert not catalog.add([str(run)]).files_added
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.parquet")} == files


@pytest.mark.parametrize("lost", ["kernels", "operators"])
def test_what_a_trace_gave_is_made_again_where_it_is_gone(run: Path, lost: str) -> None:
    catalog = Catalog(run / "c.duckdb")
    catalog.add([str(run)])
    files = sorted(run.rglob("*.parquet"))
    (victim,) = (path for path in (run / f"run_id=r/table={lost}").iterdir() if "part" in path.name)
    victim.unlink()
    catalog.add([str(run)])
    assert sorted(run.rglob("*.parquet")) == files
    assert not [problem for problem in catalog.check() if "gone" in problem.what]


def test_a_trace_whose_rows_are_in_a_merged_file_is_not_read_again(run: Path) -> None:
    catalog = Catalog(run / "c.duckdb")
    catalog.add([str(run)])
    for part in list(run.glob("run_id=r/table=*/rank=00003.part*.parquet")):
        table = pq.read_table(part)
        replaced = replaced_metadata([Replaced(part.name, part.stat().st_size)])
        merged = table.replace_schema_metadata({**(table.schema.metadata or {}), **replaced})
        pq.write_table(merged, run / ranks_path("r", part.parent.name.removeprefix("table="), 3, 3))
        part.unlink()
    # Of a damaged file nothing is said here.
    (run / ranks_path("r", "kernels", 0, 1)).write_text("not Parquet")
    files = sorted(run.rglob("*.parquet"))
    catalog.add([str(run)])
    assert sorted(run.rglob("*.parquet")) == files
    # A copy of a directory may have other times.
    for trace in run.rglob("rank=00003.*.json"):
        os.utime(trace)
    catalog.add([str(run)])
    assert sorted(run.rglob("*.parquet")) == files


def test_a_damaged_trace_does_not_keep_the_run_out(run: Path) -> None:
    (run / trace_path("r", 3, 7)).write_text("not a trace")
    catalog = Catalog(run / "c.duckdb")
    (notice,) = catalog.add([str(run)]).notices
    assert "rank=00003.step=7.json" in notice
    assert catalog.sql("SELECT * FROM steps").num_rows == 1


def test_traces_have_names_of_their_own(tmp_path: Path) -> None:
    assert parse_trace_name(Path(trace_path("r", 12, 345)).name) == (12, 345)
    assert parse_trace_name("rank=00003.parquet") is None


def test_traces_reach_any_filesystem() -> None:
    import fsspec

    Sink("memory://traces", "run", 0).write_trace(2, lambda path: Path(path).write_text("{}") and None)
    assert fsspec.filesystem("memory").find("/traces") == ["/traces/run_id=run/kineto/rank=00000.step=2.json"]


def test_only_the_steps_asked_for_are_profiled(tmp_path: Path) -> None:
    patches = Patches()
    kineto = KinetoCapture(ProfilerWatch(patches), steps=2)
    try:
        for step in (4, 5, 6):
            kineto.start_step(step)
            torch.ones(4, 4) @ torch.ones(4, 4)
            kineto.end_step()
    finally:
        patches.remove()
    kineto.write(Sink(str(tmp_path), "r", 0))
    traces = sorted(path.name for path in tmp_path.rglob("*.json"))
    assert traces == ["rank=00000.step=4.json", "rank=00000.step=5.json"]
    assert not kineto.why_none
    assert not torch.autograd._profiler_enabled()


def test_nothing_of_a_trace_is_parsed_inside_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(*arguments: object, **options: object) -> None:
        raise AssertionError("the profiler's own writer does it")

    monkeypatch.setattr(json, "load", parse)
    monkeypatch.setattr(json, "loads", parse)
    from torch.autograd.profiler import profile

    monkeypatch.setattr(profile, "_parse_kineto_results", parse)
    test_only_the_steps_asked_for_are_profiled(tmp_path)


def test_a_gpu_without_kernels_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under Nsight Systems, which holds CUPTI."""
    patches = Patches()
    kineto = KinetoCapture(ProfilerWatch(patches), steps=1)
    kineto.start_step(0)
    kineto.end_step()
    patches.remove()
    monkeypatch.setattr("vtrain_plugin.capture.kineto.cuda_in_use", lambda: True)
    kineto.write(Sink(str(tmp_path), "r", 0))
    assert "CUPTI gave none" in kineto.why_none


@pytest.mark.slow
def test_kernels_of_a_capture(capture: Callable[..., Any]) -> None:
    run = capture("kernels-one-step", 1, plugin=("--kernels",))
    steps = run.catalog.sql("SELECT DISTINCT step FROM operators WHERE source = 'kineto'").to_pylist()
    assert [row["step"] for row in steps] == [1], "the first captured step alone"
    assert len(run.catalog.show("kernels-one-step")["steps"]) == 2
