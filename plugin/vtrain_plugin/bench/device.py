"""The device that a microbenchmark runs on, and how it times calls there."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vtrain_plugin.bench.device_queue import Call, DeviceQueue
from vtrain_plugin.bench.rotation import Rotation, last_level_cache
from vtrain_plugin.capture.device import cuda_in_use
from vtrain_plugin.capture.process import local_rank

if TYPE_CHECKING:
    import torch

_MOST_TIMINGS = 200
_UNKNOWN_L2 = 64 << 20  # where torch is older than 2.1


@dataclass(frozen=True)
class Timing:
    """One measurement.

    start_ns: since the Unix epoch. duration_ns: of one call, the mean of `calls` calls between two marks.
    host_bound: the device waited for the host meanwhile, so that the duration has launch gaps in it; None on the
    processor, where there is no queue.
    """

    start_ns: int
    duration_ns: int
    calls: int
    host_bound: bool | None


class BenchDevice(ABC):
    """A device.

    clock_source: word for where its times come from. backend: its communication backend. cache_bytes: its largest
    cache.
    """

    cuda: bool
    clock_source: str
    backend: str
    device: torch.device
    cache_bytes: int

    def __init__(self) -> None:
        import torch

        self.torch = torch

    @abstractmethod
    def time(self, call: Call) -> Timing:
        """Time one call right away, on a queue that may be idle."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Memory that nobody uses; None where the system does not say."""

    @abstractmethod
    def _batch(self, calls: Rotation[Call], count: int) -> Timing:
        """Time `count` calls between two marks."""

    @abstractmethod
    def _batch_size(self, calls: Rotation[Call]) -> int:
        """Calls between two marks that make a duration that the clock can tell."""

    def dtype(self, name: str) -> torch.dtype:
        """torch's dtype of a name such as ``bfloat16``; raises ValueError."""
        dtype = getattr(self.torch, name, None)
        if not isinstance(dtype, self.torch.dtype):
            raise ValueError(f"unknown element type {name!r}: use float32, bfloat16 or float16")
        return dtype

    def repeat(self, copies: Sequence[Call], seconds: float, at_least: int) -> list[Timing]:
        """Time copies of one call, in turn: warm-ups, then `at_least` times and `seconds` at most."""
        calls = Rotation(copies)
        for call in calls.take(max(2, min(len(copies), 8))):
            call()
        size = self._batch_size(calls)
        timings: list[Timing] = []
        deadline = time.perf_counter() + seconds
        while len(timings) < at_least or (time.perf_counter() < deadline and len(timings) < _MOST_TIMINGS):
            timings.append(self._batch(calls, size))
            if timings[-1].host_bound and size > 1:
                # The queue may hold fewer kernels than these calls launch.
                size //= 2
            if len(timings) >= 3 and time.perf_counter() > deadline + 4 * seconds:
                break
        device_bound = [timing for timing in timings if not timing.host_bound]
        return device_bound or timings


class CudaDevice(BenchDevice):
    """The GPU of this local rank, timed with CUDA events on a queue that is kept full."""

    cuda = True
    clock_source = "cuda_event"
    backend = "nccl"
    _LONG_ENOUGH_NS = 2_000_000
    _FEWEST, _MOST = 4, 64

    def __init__(self) -> None:
        super().__init__()
        self.torch.cuda.set_device(local_rank())
        self.device = self.torch.device("cuda", local_rank())
        self.cache_bytes = int(
            getattr(self.torch.cuda.get_device_properties(self.device), "L2_cache_size", _UNKNOWN_L2)
        )
        self.queue = DeviceQueue(self.torch.cuda)

    def time(self, call: Call) -> Timing:
        """Between two events on the current stream; waits for the second."""
        begin, end = self.queue.event(), self.queue.event()
        start = time.time_ns()
        begin.record()
        call()
        end.record()
        host_bound = begin.query()
        end.synchronize()
        return Timing(start, round(begin.elapsed_time(end) * 1e6), 1, host_bound)

    def free_bytes(self) -> int | None:
        return int(self.torch.cuda.mem_get_info()[0])

    def _batch(self, calls: Rotation[Call], count: int) -> Timing:
        start = time.time_ns()
        duration, ran_dry = self.queue.time(calls.take(count))
        return Timing(start, round(duration / count), count, ran_dry)

    def _batch_size(self, calls: Rotation[Call]) -> int:
        duration, _ = self.queue.time(calls.take(1))
        wanted = -(-self._LONG_ENOUGH_NS // max(1, duration))
        return max(self._FEWEST, min(self._MOST, wanted))


class CpuDevice(BenchDevice):
    """The processor. pin: this process keeps to one core."""

    cuda = False
    clock_source = "host"
    backend = "gloo"

    def __init__(self, pin: bool) -> None:
        super().__init__()
        if pin and hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {cores[local_rank() % len(cores)]})
            self.torch.set_num_threads(1)
        self.device = self.torch.device("cpu")
        self.cache_bytes = last_level_cache()

    def time(self, call: Call) -> Timing:
        """On the host's clock."""
        start = time.time_ns()
        begin = time.perf_counter_ns()
        call()
        return Timing(start, time.perf_counter_ns() - begin, 1, None)

    def free_bytes(self) -> int | None:
        return available_memory()

    def _batch(self, calls: Rotation[Call], count: int) -> Timing:
        (call,) = calls.take(count)
        return self.time(call)

    def _batch_size(self, calls: Rotation[Call]) -> int:
        # The host's clock resolves one call, and there is no launch to hide.
        return 1


def available_memory() -> int | None:
    """Memory that processes of this host can still have, bytes; None where the system does not say."""
    try:
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def choose_device(pin: bool = False) -> BenchDevice:
    """CUDA where there is a GPU, the processor elsewhere."""
    return CudaDevice() if cuda_in_use() else CpuDevice(pin)


def default_dtype() -> str:
    """bfloat16 on a GPU, float32 elsewhere."""
    return "bfloat16" if cuda_in_use() else "float32"
