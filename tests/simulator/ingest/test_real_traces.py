"""Real traces that nobody here made: their breakdown against raw intervals, and what they are known to hold."""

from __future__ import annotations

import gzip
import io
import json
import sqlite3
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from vtrain_sim.catalog import Catalog

SHARED = Path(__file__).resolve().parents[4] / "shared" / "traces"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the traces in {SHARED} are not at hand")

RANKS = {
    "nccl_data": 1,
    "sampled_rank": 2,
    "rank-0.Apr_03_18_51_38.1102": 1,
    "with_gpu_user_annotation_step_based_trace_2543932": 1,
    "dlrm_kineto": 8,
    "Qwen_Qwen1.5-0.5B-Chat__1016005": 1,
    "nsys-tui_mock": 1,
}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    if not SHARED.is_dir():
        pytest.skip(f"the traces in {SHARED} are not at hand")
    made = Catalog(tmp_path_factory.mktemp("real") / "c.duckdb")
    report = made.add([str(SHARED)])
    assert not report.problems
    assert not report.notices
    return made


def raw_traces() -> Iterator[tuple[str, int, list[dict[str, Any]]]]:
    """Run, rank and events of each JSON trace, read with the standard library."""
    for path in sorted(SHARED.glob("*.json.gz")):
        whole = json.loads(gzip.decompress(path.read_bytes()), parse_float=Decimal)
        rank = (whole.get("distributedInfo") or {}).get("rank", 0)
        run = (
            "sampled_rank"
            if path.name.startswith("sampled")
            else path.name.removesuffix(".json.gz").removesuffix(".pt.trace")
        )
        yield run, rank, whole["traceEvents"]
    with tarfile.open(SHARED / "dlrm_kineto.tar.gz") as tar:
        for member in tar:
            if member.isfile():
                whole = json.load(io.TextIOWrapper(tar.extractfile(member)), parse_float=Decimal)  # type: ignore[arg-type]
                yield "dlrm_kineto", whole["distributedInfo"]["rank"], whole["traceEvents"]


def merged(intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[list[int]] = []
    for begin, end in sorted(intervals):
        if found and begin <= found[-1][1]:
            found[-1][1] = max(found[-1][1], end)
        else:
            found.append([begin, end])
    return [(b, e) for b, e in found]


def length(intervals: list[tuple[int, int]]) -> int:
    return sum(end - begin for begin, end in merged(intervals))


def breakdown(events: list[tuple[str, int, int]]) -> dict[str, int]:
    """Independent of the product: unions of (class, begin, end), by sizes of unions alone."""
    by = defaultdict(list)
    for kind, begin, end in events:
        by[kind].append((begin, end))
    compute, communication, memory = by["compute"], by["communication"], by["memory"]
    window = max(e for _, _, e in events) - min(b for _, b, _ in events)
    busy, both = length(compute + communication + memory), length(compute + communication)
    # |A and B| = |A| + |B| - |A or B|
    return {
        "window_ns": window,
        "compute_ns": length(compute),
        "exposed_communication_ns": both - length(compute),
        "overlapped_communication_ns": length(compute) + length(communication) - both,
        "exposed_memory_ns": busy - both,
        "idle_ns": window - busy,
        "communication_ns": length(communication),
        "busy_ns": busy,
    }


def nanoseconds(value: Decimal | int) -> int:
    return round(value * 1000)


def test_breakdown_of_every_rank_equals_raw_intervals(catalog: Catalog) -> None:
    rows = {(r["run_id"], r["rank"]): r for r in catalog.sql("SELECT * FROM gpu_breakdown").to_pylist()}
    compared = 0
    for run, rank, events in raw_traces():
        intervals = []
        for event in events:
            if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
                # Published semantics (HolisticTraceAnalysis): NCCL's kernels communicate, copies are memory.
                kind = (
                    "memory"
                    if event["cat"] != "kernel"
                    else "communication"
                    if "nccl" in event["name"].lower()
                    else "compute"
                )
                begin = nanoseconds(event["ts"])
                intervals.append((kind, begin, begin + nanoseconds(event["dur"])))
        expected = breakdown(intervals)
        assert {name: rows[run, rank][name] for name in expected} == expected, (run, rank)
        compared += 1
    assert compared == 14


def test_time_is_conserved(catalog: Catalog) -> None:
    for view in ("gpu_breakdown", "gpu_step_breakdown"):
        rows = catalog.sql(f"SELECT * FROM {view}").to_pylist()
        assert rows
        for row in rows:
            parts = ("compute_ns", "exposed_communication_ns", "exposed_memory_ns", "idle_ns")
            assert sum(row[p] for p in parts) == row["window_ns"], row
            assert row["overlapped_communication_ns"] <= row["compute_ns"]


def test_exposed_time_of_each_collective_equals_raw_intervals(catalog: Catalog) -> None:
    found = {
        (r["run_id"], r["rank"], r["duration_ns"], r["exposed_ns"])
        for r in catalog.sql(
            "SELECT run_id, rank, duration_ns, exposed_ns FROM collectives WHERE exposed_ns IS NOT NULL"
        ).to_pylist()
    }
    for run, rank, events in raw_traces():
        kernels = [
            (e["name"], nanoseconds(e["ts"]), nanoseconds(e["ts"]) + nanoseconds(e["dur"]))
            for e in events
            if e.get("cat") == "kernel"
        ]
        compute = [(b, e) for name, b, e in kernels if "nccl" not in name.lower()]
        for name, begin, end in kernels:
            if "nccl" in name.lower():
                hidden = length(compute) + (end - begin) - length([*compute, (begin, end)])
                assert (run, rank, end - begin, end - begin - hidden) in found


def test_nothing_is_lost(catalog: Catalog) -> None:
    ranks = catalog.sql("SELECT run_id, count(*) AS n FROM ranks GROUP BY 1").to_pylist()
    assert {r["run_id"]: r["n"] for r in ranks} == RANKS
    query = (
        "SELECT run_id, rank, count(*) FILTER (kind <> 'memory') AS kernels, count(*) FILTER (kind = 'memory') AS copies, "
        "count(*) FILTER (kind = 'communication') AS nccl FROM kernels GROUP BY ALL"
    )
    kernels = {(r["run_id"], r["rank"]): (r["kernels"], r["copies"], r["nccl"]) for r in catalog.sql(query).to_pylist()}
    query = "SELECT run_id, rank, count(*) AS n FROM operators GROUP BY ALL"
    operators = {(r["run_id"], r["rank"]): r["n"] for r in catalog.sql(query).to_pylist()}
    for run, rank, events in raw_traces():
        categories = Counter(e.get("cat") for e in events)
        nccl = sum(e.get("cat") == "kernel" and "nccl" in e["name"].lower() for e in events)
        copies = categories["gpu_memcpy"] + categories["gpu_memset"]
        assert kernels[run, rank] == (categories["kernel"], copies, nccl)
        assert operators[run, rank] == categories["cpu_op"]


def test_kernels_are_linked_as_the_profiler_linked_them(catalog: Catalog) -> None:
    """Where a kernel carries an operator's external id, the launching call leads to the same operator."""
    rows = catalog.sql("SELECT correlation, operator FROM kernels WHERE run_id = 'nccl_data'").to_pylist()
    found = {r["correlation"]: r["operator"] for r in rows}
    events = next(e for run, _, e in raw_traces() if run == "nccl_data")
    operators = {e["args"]["External id"]: e["name"] for e in events if e.get("cat") == "cpu_op"}
    checked = 0
    for event in events:
        if event.get("cat") == "kernel" and event["args"].get("External id") in operators:
            assert found[event["args"]["correlation"]] == operators[event["args"]["External id"]]
            checked += 1
    assert checked > 2000


def test_collectives_of_a_real_ddp_step(catalog: Catalog) -> None:
    rows = catalog.sql(
        "SELECT op, bytes, dtype, group_ranks, count(*) AS n FROM collectives WHERE run_id = 'nccl_data' GROUP BY ALL ORDER BY n DESC, bytes"
    ).to_pylist()
    assert all(r["group_ranks"] == [0, 1] for r in rows)
    assert {(r["op"], r["bytes"], r["dtype"]) for r in rows if r["op"] == "all_reduce"} == {
        ("all_reduce", 4 * n, "float32") for n in (2049000, 7875584, 6563840, 6637568, 2431040)
    }
    steps = catalog.sql("SELECT step FROM steps WHERE run_id = 'nccl_data' ORDER BY 1").to_pylist()
    assert [s["step"] for s in steps] == [4, 5, 6]


def test_calls_of_a_world_of_one_are_kept_without_kernels(catalog: Catalog) -> None:
    rows = catalog.sql(
        "SELECT op, count(*) AS n, count(bytes) AS sized, count(duration_ns) AS timed FROM collectives "
        "WHERE run_id LIKE 'rank-0%' GROUP BY 1 ORDER BY 1"
    ).to_pylist()
    assert [(r["op"], r["n"], r["sized"], r["timed"]) for r in rows] == [
        ("all_reduce", 25, 25, 0),
        ("broadcast", 10, 10, 0),
    ]


def test_products_of_an_h100_reach_a_plausible_rate(catalog: Catalog) -> None:
    rows = catalog.sql(
        "SELECT m, n, k, count(*) AS calls, median(2.0 * m * n * k / duration_ns) / 1e3 AS tflops FROM operators "
        "WHERE run_id LIKE 'Qwen%' AND kind = 'gemm' AND flops IS NOT NULL AND m > 1000 GROUP BY ALL ORDER BY ALL"
    ).to_pylist()
    assert {(r["m"], r["n"], r["k"]): r["calls"] for r in rows} == {
        (8944, 1024, 1024): 96,
        (8944, 1024, 2816): 24,
        (8944, 2816, 1024): 48,
    }
    assert all(300 < r["tflops"] < 989 for r in rows)
    layers = catalog.sql(
        "SELECT DISTINCT layer_number AS n FROM spans WHERE run_id LIKE 'Qwen%' AND kind = 'transformer_layer'"
    ).to_pylist()
    assert {r["n"] for r in layers} == set(range(1, 25))


def test_a_real_nsight_export(catalog: Catalog) -> None:
    rows = catalog.sql(
        "SELECT name, kind, start_ns, duration_ns, bytes FROM kernels WHERE run_id = 'nsys-tui_mock' ORDER BY start_ns"
    ).to_pylist()
    with sqlite3.connect(f"file:{SHARED / 'nsys-tui_mock.sqlite'}?mode=ro&immutable=1", uri=True) as db:
        epoch = db.execute("SELECT utcEpochNs FROM TARGET_INFO_SESSION_START_TIME").fetchone()[0]
        kernels = db.execute(
            'SELECT value, start, "end" - start FROM CUPTI_ACTIVITY_KIND_KERNEL JOIN StringIds ON id = demangledName ORDER BY start'
        ).fetchall()
    assert [(r["name"], r["start_ns"] - epoch, r["duration_ns"]) for r in rows if r["kind"] != "memory"] == kernels
    assert [(r["kind"], r["bytes"]) for r in rows] == [("elementwise", None), ("reduction", None), ("memory", 4)]
