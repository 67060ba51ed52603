"""What a trace does not say is null, or belongs to no step, and the report counts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.ingest.build import Kineto, training_step
from simulator.ingest.reading import ingest, notes
from vtrain_sim.catalog import Catalog
from vtrain_sim.ingest.notes import NOTED

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
