"""How microbenchmarks time calls: a full queue, inputs beyond the cache, on a GPU that only keeps time."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from plugin.operator_bench import bench_on
from plugin.simulated_gpu import SimulatedGpu
from vtrain_plugin.bench.device import CpuDevice, CudaDevice, Timing
from vtrain_plugin.bench.device_queue import DeviceQueue
from vtrain_plugin.bench.ops import OperatorBench
from vtrain_plugin.bench.output import BenchOutput
from vtrain_plugin.bench.rotation import Copies, Rotation, copies, last_level_cache
from vtrain_schemas.operators import Operator
from vtrain_sim.catalog import Catalog
from vtrain_sim.costs.measured import load_operators

HOST_NS, DEVICE_NS = 10_000, 2_000


def cuda_device(gpu: SimulatedGpu) -> CudaDevice:
    """A device of its own class on a GPU that only keeps time."""
    device = CudaDevice.__new__(CudaDevice)
    device.cache_bytes = 40 << 20
    device.queue = DeviceQueue(gpu, gpu.clock)
    return device


@pytest.mark.parametrize("ghz", [0.7, 1.98])
def test_the_device_s_time_is_measured_where_the_host_is_slower(ghz: float) -> None:
    gpu = SimulatedGpu(ghz=ghz)
    timings = cuda_device(gpu).repeat([lambda: gpu.launch(HOST_NS, DEVICE_NS)], 0, 5)
    assert len(timings) >= 3
    for timing in timings:
        assert timing.host_bound is False
        assert timing.calls == 64
        # The mark itself is in it, once per 64 calls.
        assert timing.duration_ns == pytest.approx(DEVICE_NS, rel=0.05)


def test_one_call_on_an_idle_queue_is_known_to_be_the_host_s() -> None:
    gpu = SimulatedGpu()
    device = cuda_device(gpu)
    gpu.synchronize()
    timing = device.time(lambda: gpu.launch(HOST_NS, DEVICE_NS))
    assert timing.host_bound is True
    assert timing.duration_ns >= HOST_NS
    gpu.launch(0, 1_000_000)
    timing = device.time(lambda: gpu.launch(HOST_NS, DEVICE_NS))
    assert (timing.host_bound, timing.duration_ns) == (False, DEVICE_NS)


def test_a_longer_hold_is_tried_until_the_queue_stays_full() -> None:
    gpu = SimulatedGpu()
    duration, ran_dry = DeviceQueue(gpu, gpu.clock).time([lambda: gpu.launch(1_500_000, DEVICE_NS)] * 4)
    assert (duration, ran_dry) == (4 * DEVICE_NS, False)


def test_a_call_that_waits_for_the_device_is_flagged() -> None:
    gpu = SimulatedGpu()

    def call() -> None:
        gpu.launch(HOST_NS, DEVICE_NS)
        gpu.synchronize()

    timings = cuda_device(gpu).repeat([call], 0, 5)
    assert all(timing.host_bound for timing in timings)


def test_fewer_calls_are_taken_where_the_queue_does_not_hold_them() -> None:
    gpu = SimulatedGpu(depth=40)
    timings = cuda_device(gpu).repeat([lambda: gpu.launch(HOST_NS, DEVICE_NS)], 0, 8)
    assert timings
    assert {timing.host_bound for timing in timings} == {False}
    assert {timing.calls for timing in timings} == {32}
    assert timings[0].duration_ns == pytest.approx(DEVICE_NS, rel=0.05)


def test_long_calls_are_timed_few_at_a_time() -> None:
    gpu = SimulatedGpu()
    timings = cuda_device(gpu).repeat([lambda: gpu.launch(HOST_NS, 30_000_000)], 0, 5)
    assert {timing.calls for timing in timings} == {4}


@pytest.mark.parametrize(
    ("call_bytes", "cache_bytes", "free_bytes", "expected"),
    [
        (1 << 20, 40 << 20, 1 << 36, Copies(41, True)),
        # Too many: the inputs stay in the cache, and the row says so.
        (1 << 10, 40 << 20, 1 << 36, Copies(256, False)),
        (30 << 20, 40 << 20, 100 << 20, Copies(1, False)),
        (1 << 30, 40 << 20, 1 << 30, Copies(1, True)),
        (1 << 20, 0, None, Copies(1, True)),
    ],
)
def test_copies_pass_the_cache(call_bytes: int, cache_bytes: int, free_bytes: int | None, expected: Copies) -> None:
    assert copies(call_bytes, cache_bytes, free_bytes) == expected


def test_copies_are_called_in_turn() -> None:
    rotation = Rotation("abc")
    assert rotation.take(2) + rotation.take(4) == list("abcabc")


def test_processor_calls_are_timed_one_by_one_over_all_copies() -> None:
    called: list[int] = []
    timings = CpuDevice(pin=False).repeat([lambda i=i: called.append(i) for i in range(3)], 0, 6)
    assert called[-6:] == [(called[-6] + i) % 3 for i in range(6)]
    assert {(timing.calls, timing.host_bound) for timing in timings} == {(1, None)}
    (timing,) = CpuDevice(pin=False).repeat([lambda: time.sleep(0.01)], 0, 1)
    assert timing.duration_ns >= 10_000_000


def test_largest_cache_of_the_processor(tmp_path: Path) -> None:
    for index, size in enumerate(("32K", "1024K", "33M")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert last_level_cache(tmp_path) == 33 << 20
    assert last_level_cache(tmp_path / "nothing") == 32 << 20


class RanDry(CpuDevice):
    """Every second operator is timed on a queue that ran dry."""

    cache_bytes = 0

    def __init__(self) -> None:
        super().__init__(pin=False)
        self.cache_bytes = 0
        self.turn = 0

    def repeat(self, copies: object, seconds: float, at_least: int) -> list[Timing]:
        self.turn += 1
        return [Timing(1, 1000, 8, self.turn % 2 == 0)] * at_least


def test_host_bound_times_are_kept_and_not_taken_for_the_device_s(tmp_path: Path) -> None:
    device = RanDry()
    output = BenchOutput(str(tmp_path), "ops", "ops", "cuda_event")
    bench = OperatorBench(bench_on(device), output, 0)
    bench.measure(Operator("norm", "forward", 8, 16, dtype="float32"))
    output.write()
    catalog = Catalog(tmp_path / "c.duckdb")
    assert not catalog.add([str(tmp_path)]).problems
    rows = catalog.sql("SELECT phase, calls, host_bound, in_cache FROM operators").to_pylist()
    assert {json.dumps(r) for r in rows} == {
        json.dumps({"phase": phase, "calls": 8, "host_bound": phase == "backward", "in_cache": False})
        for phase in ("forward", "backward")
    }
    with catalog.reading() as connection:
        measured = {operator.phase for operator, _ in load_operators(connection, ["ops"])}
    assert measured == {"forward"}
