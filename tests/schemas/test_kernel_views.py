"""Views of kernels and of two runs: hand-made rows with answers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.view_rows import kernel, query

GEMM = "void cutlass::Kernel2<float>(Params)"


def gaps(*kernels: dict[str, Any]) -> list[tuple[Any, ...]]:
    rows = query("SELECT * FROM gpu_gaps ORDER BY step, stream, cause", kernels=kernels)
    return [tuple(row[name] for name in ("step", "stream", "cause", "gaps", "idle_ns", "longest_ns")) for row in rows]


def test_gaps_by_cause() -> None:
    kernels = [
        kernel("a", 0, 100_000, launch=-10_000),
        kernel("b", 120_000, 80_000, launch=50_000),  # launched while a ran, 20 us later: the device's own
        kernel("c", 500_000, 100_000, launch=450_000),  # launched after b had ended
        kernel("d", 640_000, 60_000, launch=300_000),  # launched long before, 40 us later
        kernel("e", 700_000, 50_000, launch=350_000),  # no gap
        kernel("f", 800_000, 50_000),  # nobody knows when it was launched
    ]
    assert gaps(*kernels) == [
        (1, 7, "host_wait", 1, 300_000, 300_000),
        (1, 7, "kernel_wait", 1, 20_000, 20_000),
        (1, 7, "other", 2, 90_000, 50_000),
    ]
    shares = query("SELECT sum(share) AS all FROM gpu_gaps", kernels=kernels)
    assert shares[0]["all"] == pytest.approx(1)


def test_gaps_are_of_one_stream_and_count_in_the_step_of_the_kernel_behind() -> None:
    kernels = [kernel("a", 0, 100), kernel("b", 0, 1000, stream=9), kernel("c", 150, 50, launch=120, step=2)]
    assert gaps(*kernels) == [(2, 7, "host_wait", 1, 50, 50)]


def test_streams_of_two_devices_are_apart() -> None:
    """Stream 7 of each: one has a gap, and its queue is its own."""
    kernels = [
        kernel("a", 0, 100_000, launch=-10, device=0),
        kernel("a", 50_000, 300_000, launch=-5, device=1),
        kernel("b", 400_000, 10_000, launch=-1, device=0),
    ]
    rows = query("SELECT device, cause, idle_ns FROM gpu_gaps", kernels=kernels)
    assert rows == [{"device": 0, "cause": "other", "idle_ns": 300_000}]
    rows = query("SELECT device, longest_queue FROM launch_summary ORDER BY device", kernels=kernels)
    assert rows == [{"device": 0, "longest_queue": 2}, {"device": 1, "longest_queue": 1}]
    assert not query("SELECT * FROM kernel_sequences", kernels=kernels)


def test_no_gap_where_an_earlier_kernel_still_runs() -> None:
    assert gaps(kernel("a", 0, 500), kernel("b", 100, 50), kernel("c", 300, 50)) == []


def test_launches() -> None:
    """Three launches before the first kernel begins; the second call took longer than its kernel."""
    kernels = [
        kernel(GEMM, 100, 50, launch=0, launch_duration_ns=10, operator="aten::mm"),
        kernel("b", 150, 5, launch=20, launch_duration_ns=15),
        kernel("c", 160, 50, launch=120),
        kernel("d", 165, 50, launch=161, launch_duration_ns=10),
        kernel("x", 400, 50, launch=110, launch_duration_ns=10, stream=9),
        kernel("unlinked", 500, 50),
    ]
    rows = query("SELECT * FROM launches ORDER BY stream, launch_ns", kernels=kernels)
    columns = ("name", "api_ns", "delay_ns", "launch_to_start_ns", "queue_length")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        ("cutlass::Kernel2", 10, 90, 100, 1),
        ("b", 15, 115, 130, 2),
        ("c", None, None, 40, 2),
        ("d", 10, 0, 4, 1),
        ("x", 10, 280, 290, 1),
    ]
    (row,) = query("SELECT * FROM launch_summary", kernels=kernels)
    assert [row[name] for name in ("launches", "api_ns", "median_api_ns", "longest_queue", "short_kernels")] == [
        5,
        45,
        10,
        2,
        1,
    ]
    assert (row["median_delay_ns"], row["mean_queue_length"]) == (102.5, 1.4)


def test_short_kernels_are_not_known_without_calls() -> None:
    (row,) = query("SELECT short_kernels, api_ns FROM launch_summary", kernels=[kernel("a", 100, 50, launch=0)])
    assert row == {"short_kernels": None, "api_ns": None}


def test_memory_over_time() -> None:
    gpu = {"rank": 0, "step": 1, "device_type": "gpu", "device": 0}
    samples = [
        {**gpu, "time_ns": 1010, "bytes": 100, "allocated_bytes": 600, "reserved_bytes": 1000, "span_id": 3},
        {**gpu, "time_ns": 1020, "bytes": -200, "allocated_bytes": 400, "reserved_bytes": 1000, "operator": "aten::mm"},
        {**gpu, "time_ns": 1030, "bytes": 8, "allocated_bytes": 9, "device_type": "cpu", "device": None},
        {**gpu, "time_ns": 990, "bytes": 50, "allocated_bytes": 500, "reserved_bytes": 900, "step": -1},
    ]
    rows = query(
        "SELECT * FROM memory_timeline ORDER BY step, at_ns",
        memory=samples,
        steps=[{"rank": 0, "step": 1, "start_ns": 1000, "duration_ns": 100}],
        spans=[{"rank": 0, "step": 1, "span_id": 3, "name": "mlp"}],
    )
    columns = ("step", "at_ns", "device_type", "allocated_bytes", "unused_bytes", "peak_bytes", "operator", "span")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        (-1, 0, "gpu", 500, 400, 500, None, None),
        (1, 10, "gpu", 600, 400, 600, None, "mlp"),
        (1, 20, "gpu", 400, 600, 600, "aten::mm", None),
        (1, 30, "cpu", 9, None, 9, None, None),
    ]


def test_sequences_that_repeat() -> None:
    """On one stream a b c, twice; another stream's kernels are not between them."""
    kernels = [kernel(name, 100 * n, 80) for n, name in enumerate(("a", "b", "c", "a", "b", "c"))]
    kernels += [kernel("x", 150, 10, stream=9), kernel("a", 1000, 80, step=2)]
    rows = query("SELECT * FROM kernel_sequences ORDER BY length, kernels", kernels=kernels)
    assert [(r["length"], r["kernels"], r["occurrences"], r["busy_ns"], r["span_ns"]) for r in rows] == [
        (2, ["a", "b"], 2, 320, 360),
        (2, ["b", "c"], 2, 320, 360),
        (3, ["a", "b", "c"], 2, 480, 560),
    ]


def test_sequences_have_short_names_up_to_five() -> None:
    kernels = [kernel(GEMM, 100 * n, 80) for n in range(7)]
    rows = query(
        "SELECT length, kernels[1] AS first, occurrences FROM kernel_sequences ORDER BY length", kernels=kernels
    )
    assert [(r["length"], r["first"], r["occurrences"]) for r in rows] == [
        (length, "cutlass::Kernel2", 8 - length) for length in (2, 3, 4, 5)
    ]


def span(run: str, kind: str, self_ns: int, rank: int = 0, step: int = 1) -> dict[str, Any]:
    return {"run_id": run, "rank": rank, "step": step, "kind": kind, "phase": "forward", "self_ns": self_ns}


def test_a_comparison_keeps_what_one_run_has() -> None:
    """Run a: two steps; run b: one step on two ranks."""
    spans = [span("a", "mlp", 100), span("a", "mlp", 300, step=2), span("a", "loss", 50), span("b", "mlp", 100)]
    spans += [span("b", "mlp", 160, rank=1), span("b", "p2p", 40)]
    rows = query("SELECT * FROM run_comparison WHERE base_run = 'a' ORDER BY kind", spans=spans)
    columns = ("run_id", "kind", "base_calls", "run_calls", "base_ns", "run_ns", "difference_ns", "ratio")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        ("b", "loss", 0.5, None, 25, None, None, None),
        ("b", "mlp", 1, 1, 200, 130, -70, 0.65),
        ("b", "p2p", None, 0.5, None, 20, None, None),
    ]


def test_a_comparison_goes_both_ways() -> None:
    spans = [span("a", "mlp", 100), span("b", "mlp", 150)]
    rows = query("SELECT base_run, difference_ns FROM run_comparison ORDER BY base_run", spans=spans)
    assert rows == [{"base_run": "a", "difference_ns": 50}, {"base_run": "b", "difference_ns": -50}]


def test_a_run_without_any_is_compared_too() -> None:
    rows = query(
        "SELECT base_ns, run_ns FROM run_comparison WHERE base_run = 'b'",
        runs=[{"run_id": "b", "source": "ops"}],
        spans=[span("a", "mlp", 100)],
    )
    assert rows == [{"base_ns": None, "run_ns": 100}]


def test_kernels_of_two_runs() -> None:
    kernels = [
        kernel(GEMM, 0, 100, run_id="a"),
        kernel(GEMM.replace("float", "half"), 0, 60, run_id="b"),
        kernel("flash", 0, 10, run_id="b", kind="attention"),
        kernel("outside", 0, 10, run_id="b", step=-1),
    ]
    rows = query("SELECT * FROM kernel_comparison WHERE base_run = 'a' ORDER BY name", kernels=kernels)
    assert [(r["kind"], r["name"], r["base_ns"], r["run_ns"]) for r in rows] == [
        ("gemm", "cutlass::Kernel2", 100, 60),
        ("attention", "flash", None, 10),
    ]


def test_operators_of_two_runs_count_their_own_time() -> None:
    common = {"rank": 0, "step": 1, "kind": "gemm", "phase": "forward"}
    operators = [
        {**common, "run_id": "a", "source": "kineto", "name": "aten::mm", "duration_ns": 100, "self_ns": 40},
        {**common, "run_id": "b", "source": "kineto", "name": "aten::mm", "duration_ns": 100, "self_ns": 50},
        {**common, "run_id": "b", "source": "module", "name": "linear_qkv", "duration_ns": 70},
    ]
    rows = query("SELECT * FROM operator_comparison WHERE base_run = 'a' ORDER BY name", operators=operators)
    assert [(r["source"], r["name"], r["base_ns"], r["run_ns"], r["ratio"]) for r in rows] == [
        ("kineto", "aten::mm", 40, 50, 1.25),
        ("module", "linear_qkv", None, 70, None),
    ]


def test_what_is_not_known_of_a_stream_is_null() -> None:
    kernels = [kernel(name, start, 100, launch=start - 9, stream=None) for name, start in (("a", 0), ("b", 300))] * 2
    assert query("SELECT * FROM gpu_gaps", kernels=kernels) == []
    assert query("SELECT * FROM kernel_sequences", kernels=kernels) == []
    assert {row["queue_length"] for row in query("SELECT queue_length FROM launches", kernels=kernels)} == {None}
