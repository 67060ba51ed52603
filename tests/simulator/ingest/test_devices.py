"""A process that uses several GPUs: each has its own time, its own streams and its own overlap."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.ingest.build import BASE_NS, Kineto, Nsight
from vtrain_sim.catalog import Catalog
from vtrain_sim.report.trace import captured_trace

GEMM = "ampere_bf16_s16816gemm_bf16_128x256_ldg8_f2f_stages_64x3_tn"
NCCL = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """Device 0 computes from 10 to 20 us and communicates from 15 to 30, device 1 computes from 18 to 40."""
    trace = Kineto()
    trace.range("ProfilerStep#0", 0, 100)
    for name, device, ts, dur in ((GEMM, 0, 10, 10), (NCCL, 0, 15, 15), (GEMM, 1, 18, 22)):
        trace.kernel(name, ts - 5, ts, dur)
        trace.events[-1] |= {"pid": device}
        trace.events[-1]["args"]["device"] = device
    made = Catalog(tmp_path / "c.duckdb")
    made.add([str(trace.write(tmp_path / "job.json"))])
    return made


def test_each_device_has_a_row_in_the_views_of_gpu_time(catalog: Catalog) -> None:
    expected = [
        {"device": 0, "window_ns": 20_000, "compute_ns": 10_000, "exposed_communication_ns": 10_000, "idle_ns": 0},
        {"device": 1, "window_ns": 22_000, "compute_ns": 22_000, "exposed_communication_ns": 0, "idle_ns": 0},
    ]
    for view in ("gpu_breakdown", "gpu_step_breakdown"):
        assert catalog.sql(f"SELECT {', '.join(expected[0])} FROM {view} ORDER BY device").to_pylist() == expected
    shares = catalog.sql("SELECT device, kind, share FROM kernel_times ORDER BY device, kind").to_pylist()
    assert [(s["device"], s["kind"], s["share"]) for s in shares] == [
        (0, "communication", 0.6),
        (0, "gemm", 0.4),
        (1, "gemm", 1.0),
    ]


def test_a_collective_is_hidden_by_compute_of_its_device_alone(catalog: Catalog) -> None:
    calls = catalog.sql("SELECT device, stream, duration_ns, exposed_ns FROM collectives").to_pylist()
    assert calls == [{"device": 0, "stream": 7, "duration_ns": 15_000, "exposed_ns": 10_000}]


def test_streams_of_different_devices_are_different_tracks(catalog: Catalog) -> None:
    (process,) = captured_trace(catalog.timeline("job")).processes
    tracks = [name for name in process.tracks if name.startswith("kernels, device")]
    assert {name.removesuffix(" 2") for name in tracks} == {
        "kernels, device 0, stream 7",
        "kernels, device 1, stream 7",
    }


def test_two_devices_that_share_the_number_of_a_stream_are_not_out_of_order(catalog: Catalog) -> None:
    reasons = {r["reason"] for r in catalog.sql("SELECT reason FROM ingest").to_pylist()}
    assert not any("out of the order" in reason for reason in reasons)
    assert any("several devices" in reason for reason in reasons)


def test_a_process_of_an_nsight_report_on_two_devices(tmp_path: Path) -> None:
    report = Nsight(tmp_path / "job.sqlite")
    report.kernel(GEMM, 10, 100, 300, process=500, device=0)
    report.kernel(GEMM, 20, 150, 250, process=500, device=1)
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([str(report.close())])
    rows = catalog.sql("SELECT rank, device, start_ns FROM kernels ORDER BY device").to_pylist()
    assert rows == [
        {"rank": 0, "device": 0, "start_ns": BASE_NS + 100},
        {"rank": 0, "device": 1, "start_ns": BASE_NS + 150},
    ]
    windows = catalog.sql("SELECT device, window_ns FROM gpu_breakdown ORDER BY device").to_pylist()
    assert windows == [{"device": 0, "window_ns": 200}, {"device": 1, "window_ns": 100}]


@pytest.mark.parametrize("number", [1 << 31, (1 << 62) - 1])
def test_any_number_of_a_device_is_kept(tmp_path: Path, number: int) -> None:
    trace = Kineto()
    trace.kernel(GEMM, 5, 10, 10)
    trace.events[-1] |= {"pid": number}
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([str(trace.write(tmp_path / "job.json"))])
    assert catalog.sql("SELECT device FROM gpu_breakdown").to_pylist() == [{"device": number}]
