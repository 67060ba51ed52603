"""What a trace does not say is null, or belongs to no step, and the report counts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.ingest.build import Kineto, training_step
from simulator.ingest.reading import ingest, notes
from vtrain_sim.catalog import Catalog
from vtrain_sim.errors import UserError
from vtrain_sim.ingest.notes import NOTED
from vtrain_sim.report.trace import captured_trace
from vtrain_sim.validate.account import OPTIMIZER
from vtrain_sim.validate.captured_account import captured_account

GEMM = "ampere_bf16_s16816gemm_bf16_128x256_ldg8_f2f_stages_64x3_tn"


def late_kernel(trace: Kineto, ts: float, dur: float) -> None:
    """A kernel without the call that launched it."""
    trace.event("kernel", GEMM, ts, dur, pid=0, tid=7, stream=7, correlation=999_999, device=0)


@pytest.fixture
def two_steps(tmp_path: Path) -> Catalog:
    """Steps 5 and 6; during 6 there runs a kernel whose launch is not in the trace."""
    trace = Kineto()
    training_step(trace, 0, 5)
    training_step(trace, 2000, 6)
    late_kernel(trace, 2400, 300)
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([str(trace.write(tmp_path / "job.json"))])
    return catalog


def test_a_kernel_whose_launch_is_not_in_the_trace_is_in_no_step(two_steps: Catalog) -> None:
    steps = two_steps.sql("SELECT step, compute_ns, window_ns FROM gpu_step_breakdown ORDER BY step").to_pylist()
    # Both steps launched the same: products of 40, 30 and 50 us, and 20 of the optimizer.
    assert [(s["step"], s["compute_ns"], s["window_ns"]) for s in steps] == [
        (5, 140_000, 725_000),
        (6, 140_000, 725_000),
    ]
    (whole,) = two_steps.sql("SELECT compute_ns FROM gpu_breakdown").to_pylist()
    assert whole["compute_ns"] == 2 * 140_000 + 300_000
    (kernel,) = two_steps.sql("SELECT step, launch_ns FROM kernels WHERE duration_ns = 300000").to_pylist()
    assert kernel == {"step": -1, "launch_ns": None}
    noted = two_steps.sql("SELECT count FROM ingest WHERE reason LIKE 'have no launching call%'").to_pylist()
    assert noted == [{"count": 1}]


def test_a_trace_without_marked_steps_is_one_step_of_all_its_kernels() -> None:
    trace = Kineto()
    late_kernel(trace, 10, 5)
    tables, _ = ingest(trace)
    assert [k["step"] for k in tables["kernels"]] == [0]
    assert not any(reason.startswith("have no launching call") for reason in notes(tables, NOTED))


COORDINATES = ("tp_rank", "pp_rank", "dp_rank", "cp_rank", "ep_rank")


def test_what_a_trace_does_not_say_of_its_rank_and_run_is_null(tmp_path: Path) -> None:
    trace = Kineto(rank=3, world=8)
    training_step(trace, tp_group=False)
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([str(trace.write(tmp_path / "job.json"))])
    (rank,) = catalog.sql("SELECT * FROM ranks").to_pylist()
    assert [rank[name] for name in (*COORDINATES, "local_rank", "host")] == [None] * 7
    assert rank["rank"] == 3
    (run,) = catalog.sql("SELECT * FROM runs").to_pylist()
    assert [run[name] for name in ("warmup_steps", "active_steps", "vtrain_version")] == [None] * 3
    assert run["world_size"] == 8


def test_coordinates_are_the_places_in_the_groups_that_a_trace_lists() -> None:
    trace = Kineto(rank=5, world=8)
    trace.metadata["distributedInfo"]["pg_config"] = [
        {"pg_name": "1", "pg_desc": "TENSOR_MODEL_PARALLEL_GROUP", "pg_size": 2, "ranks": [4, 5]},
        {"pg_name": "2", "pg_desc": "PIPELINE_MODEL_PARALLEL_GROUP", "pg_size": 4, "ranks": [1, 3, 5, 7]},
        # Shortened by the profiler; and two that contradict each other.
        {"pg_name": "3", "pg_desc": "DATA_PARALLEL_GROUP", "pg_size": 64, "ranks": [5]},
        {"pg_name": "4", "pg_desc": "CONTEXT_PARALLEL_GROUP", "ranks": [5]},
        {"pg_name": "5", "pg_desc": "CONTEXT_PARALLEL_GROUP", "ranks": [1, 5]},
    ]
    tables, _ = ingest(trace)
    assert [tables["ranks"][0][name] for name in COORDINATES] == [1, 2, None, None, None]


def test_a_group_of_a_call_says_the_coordinate_too() -> None:
    trace = Kineto(rank=1, world=2)
    training_step(trace)
    tables, _ = ingest(trace)
    assert [tables["ranks"][0][name] for name in COORDINATES] == [1, None, None, None, None]


def test_a_trace_without_stages_has_a_timeline_and_an_account(tmp_path: Path) -> None:
    for rank in (0, 1):
        trace = Kineto(rank=rank, world=2)
        training_step(trace, tp_group=False)
        (tmp_path / "job").mkdir(exist_ok=True)
        trace.write(tmp_path / "job" / f"rank{rank}.json")
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([str(tmp_path / "job")])
    timeline = catalog.timeline("job")
    assert [(r.rank, r.stage, r.host) for r in timeline.ranks] == [(0, None, None)]
    assert [process.name for process in captured_trace(timeline).processes] == ["captured job, rank 0"]
    with pytest.raises(UserError, match="does not say which stages"):
        timeline.of_stages([0])
    account = captured_account(catalog, "job")
    assert account.stage is None
    assert account.causes[OPTIMIZER] == pytest.approx(20e-6)
