"""Launches, gaps and memory of real traces, against the raw events with HolisticTraceAnalysis' definitions."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import pytest

from simulator.ingest.test_real_traces import SHARED, catalog, nanoseconds, raw_traces
from vtrain_sim.catalog import Catalog

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the traces in {SHARED} are not at hand")
__all__ = ["catalog"]
DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
CALLS = ("cuda_runtime", "cuda_driver", "runtime", "driver")
Event = dict[str, Any]


def linked(events: list[Event]) -> list[tuple[Event, Event]]:
    """Each event of the device with the call that launched it."""
    calls = {
        e["args"]["correlation"]: e
        for e in events
        if str(e.get("cat")).lower() in CALLS and e.get("ph") == "X" and "correlation" in e.get("args", {})
    }
    kernels = [e for e in events if e.get("cat") in DEVICE and e.get("ph") == "X"]
    return [(calls[k["args"]["correlation"]], k) for k in kernels if k["args"].get("correlation") in calls]


def times(event: Event) -> tuple[int, int]:
    begin = nanoseconds(event["ts"])
    return begin, begin + nanoseconds(event["dur"])


def test_delays_are_from_the_end_of_the_call_to_the_kernel(catalog: Catalog) -> None:
    compared = 0
    for run, rank, events in raw_traces():
        expected: Counter[tuple[int, int, int]] = Counter()
        for call, kernel in linked(events):
            (launch, end), (start, _) = times(call), times(kernel)
            expected[end - launch, max(0, start - end), start - launch] += 1
        rows = catalog.sql(
            f"SELECT api_ns, delay_ns, launch_to_start_ns FROM launches WHERE run_id = '{run}' AND rank = {rank}"
        ).to_pylist()
        assert Counter(tuple(row.values()) for row in rows if row["api_ns"] is not None) == expected, (run, rank)
        compared += len(expected)
    assert compared > 1000


def test_gaps_by_cause_are_those_of_hta(catalog: Catalog) -> None:
    compared = 0
    for run, rank, events in raw_traces():
        launched = {id(kernel): times(call)[0] for call, kernel in linked(events)}
        streams: defaultdict[int, list[Event]] = defaultdict(list)
        for event in events:
            if event.get("cat") in DEVICE and event.get("ph") == "X":
                streams[event["args"].get("stream", event["tid"])].append(event)
        expected: Counter[tuple[int, str]] = Counter()
        for stream, kernels in streams.items():
            kernels.sort(key=times)
            for before, after in pairwise(kernels):
                free, start = times(before)[1], times(after)[0]
                late = launched.get(id(after), free) > free
                if start > free:
                    cause = "host_wait" if late else "kernel_wait" if start - free < 30_000 else "other"
                    expected[stream, cause] += start - free
        rows = catalog.sql(
            "SELECT stream, cause, sum(idle_ns)::BIGINT AS ns FROM gpu_gaps "
            f"WHERE run_id = '{run}' AND rank = {rank} GROUP BY ALL"
        ).to_pylist()
        assert {(row["stream"], row["cause"]): row["ns"] for row in rows} == expected, (run, rank)
        compared += len(expected)
    assert compared > 20


def test_the_longest_queue_is_that_of_the_raw_events(catalog: Catalog) -> None:
    for run, rank, events in raw_traces():
        longest = 0
        streams: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for call, kernel in linked(events):
            moments = streams[kernel["args"].get("stream", kernel["tid"])]
            moments += [(times(call)[0], -1), (times(kernel)[0], 1)]
        for moments in streams.values():
            length = 0
            for _, change in sorted(moments):
                length -= change
                longest = max(longest, length)
        (row,) = catalog.sql(
            f"SELECT max(queue_length) AS longest FROM launches WHERE run_id = '{run}' AND rank = {rank}"
        ).to_pylist()
        assert row["longest"] == (longest or None), (run, rank)


def test_memory_is_every_sample_of_the_raw_trace(catalog: Catalog) -> None:
    compared = 0
    for run, _, events in raw_traces():
        samples = [e for e in events if e.get("name") == "[memory]"]
        rows = catalog.sql(
            f"SELECT device_type, bytes, allocated_bytes FROM memory WHERE run_id = '{run}' ORDER BY time_ns"
        ).to_pylist()
        expected = Counter(
            ("gpu" if e["args"]["Device Type"] else "cpu", e["args"]["Bytes"], e["args"]["Total Allocated"])
            for e in samples
        )
        assert Counter(tuple(row.values()) for row in rows) == expected
        compared += len(samples)
    assert compared == 2450


def test_the_peak_says_what_allocated_it(catalog: Catalog) -> None:
    (row,) = catalog.sql(
        "SELECT operator, span, allocated_bytes, unused_bytes FROM memory_timeline "
        "WHERE device_type = 'gpu' AND allocated_bytes = peak_bytes"
    ).to_pylist()
    assert row == {
        "operator": "aten::mul",
        "span": "nn.Module: Qwen2MLP_23",
        "allocated_bytes": 2_088_508_416,
        "unused_bytes": 541_320_192,
    }


def test_where_the_group_is_not_known_nobody_is_blamed(catalog: Catalog) -> None:
    known = catalog.sql("SELECT DISTINCT run_id FROM collectives WHERE group_ranks IS NOT NULL").to_pylist()
    blamed = {row["run_id"] for row in catalog.sql("SELECT DISTINCT run_id FROM stragglers").to_pylist()}
    assert blamed <= {row["run_id"] for row in known}
    # All eight ranks of one job are there, and say by waiting which calls are the same.
    assert len(blamed) == 1
    (row,) = catalog.sql("SELECT count(idle_ns) AS known, count(*) AS all FROM pipeline_bubble").to_pylist()
    assert row["known"] == 0 < row["all"]


def test_the_rank_that_waits_least_in_the_raw_events_holds_up_the_others(catalog: Catalog) -> None:
    waiting = {
        rank: sum(times(e)[1] - times(e)[0] for e in events if e.get("cat") == "kernel" and "nccl" in e["name"])
        for run, rank, events in raw_traces()
        if run == "dlrm_kineto"
    }
    (worst,) = catalog.sql(
        "SELECT rank, cause FROM stragglers GROUP BY ALL ORDER BY sum(lost_ns) DESC LIMIT 1"
    ).to_pylist()
    assert worst == {"rank": min(waiting, key=lambda rank: waiting[rank]), "cause": "begin"}
    path = catalog.critical_path("dlrm_kineto")
    assert path.rank_changes > 0
    assert worst["rank"] in {piece.rank for piece in path.pieces}
