"""The device that a microbenchmark runs on, and how it times a call there."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from vtrain_plugin.capture.device import cuda_in_use
from vtrain_plugin.capture.process import local_rank

if TYPE_CHECKING:
    import torch

Call = Callable[[], object]


class BenchDevice(ABC):
    """A device. clock_source: word for where its times come from; backend: its communication backend."""

    cuda: bool
    clock_source: str
    backend: str
    device: torch.device

    def __init__(self) -> None:
        import torch

        self.torch = torch

    @abstractmethod
    def time_ns(self, call: Call) -> tuple[int, int]:
        """Start (Unix epoch) and duration of one call, ns."""

    def dtype(self, name: str) -> torch.dtype:
        """torch's dtype of a name such as ``bfloat16``; raises ValueError."""
        dtype = getattr(self.torch, name, None)
        if not isinstance(dtype, self.torch.dtype):
            raise ValueError(f"unknown element type {name!r}: use float32, bfloat16 or float16")
        return dtype

    def repeat(self, call: Call, seconds: float, at_least: int) -> list[tuple[int, int]]:
        """Time a call again and again: two warm-ups, then `at_least` times and `seconds` at most."""
        for _ in range(2):
            self.time_ns(call)
        times: list[tuple[int, int]] = []
        deadline = time.perf_counter() + seconds
        while len(times) < at_least or (time.perf_counter() < deadline and len(times) < 200):
            times.append(self.time_ns(call))
            if len(times) >= 3 and time.perf_counter() > deadline + 4 * seconds:
                break
        return times


class CudaDevice(BenchDevice):
    """The GPU of this local rank, timed with CUDA events."""

    cuda = True
    clock_source = "cuda_event"
    backend = "nccl"

    def __init__(self) -> None:
        super().__init__()
        self.torch.cuda.set_device(local_rank())
        self.device = self.torch.device("cuda", local_rank())

    def time_ns(self, call: Call) -> tuple[int, int]:
        """Between two events on the current stream; waits for the second."""
        begin_event = self.torch.cuda.Event(enable_timing=True)
        end_event = self.torch.cuda.Event(enable_timing=True)
        start = time.time_ns()
        begin_event.record()
        call()
        end_event.record()
        end_event.synchronize()
        return start, round(begin_event.elapsed_time(end_event) * 1e6)


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

    def time_ns(self, call: Call) -> tuple[int, int]:
        """On the host's clock."""
        start = time.time_ns()
        begin = time.perf_counter_ns()
        call()
        return start, time.perf_counter_ns() - begin


def choose_device(pin: bool = False) -> BenchDevice:
    """CUDA where there is a GPU, the processor elsewhere."""
    return CudaDevice() if cuda_in_use() else CpuDevice(pin)


def default_dtype() -> str:
    """bfloat16 on a GPU, float32 elsewhere."""
    return "bfloat16" if cuda_in_use() else "float32"
