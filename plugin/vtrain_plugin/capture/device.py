"""The device that a microbenchmark runs on, and how it times a call there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any


class BenchDevice:
    """CUDA where there is a GPU, the processor elsewhere."""

    def __init__(self, pin: bool = False) -> None:
        import torch

        self.torch = torch
        self.cuda = torch.version.cuda is not None and torch.cuda.is_available()
        local_rank = int(os.environ.get("LOCAL_RANK", "0") or 0)
        if self.cuda:
            torch.cuda.set_device(local_rank)
            self.device = torch.device("cuda", local_rank)
        else:
            if pin and hasattr(os, "sched_setaffinity"):
                cores = sorted(os.sched_getaffinity(0))
                os.sched_setaffinity(0, {cores[local_rank % len(cores)]})
                torch.set_num_threads(1)
            self.device = torch.device("cpu")

    @property
    def clock_source(self) -> str:
        return "cuda_event" if self.cuda else "host"

    @property
    def backend(self) -> str:
        return "nccl" if self.cuda else "gloo"

    def dtype(self, name: str) -> Any:
        """torch's dtype of a name such as ``bfloat16``."""
        found = getattr(self.torch, name, None)
        if not isinstance(found, self.torch.dtype):
            raise ValueError(f"unknown element type {name!r}: use float32, bfloat16 or float16")
        return found

    def time_ns(self, call: Callable[[], Any]) -> tuple[int, int]:
        """Start (Unix epoch) and duration of one call, ns."""
        if not self.cuda:
            start = time.time_ns()
            begin = time.perf_counter_ns()
            call()
            return start, time.perf_counter_ns() - begin
        begin_event = self.torch.cuda.Event(enable_timing=True)
        end_event = self.torch.cuda.Event(enable_timing=True)
        start = time.time_ns()
        begin_event.record()
        call()
        end_event.record()
        end_event.synchronize()
        return start, round(begin_event.elapsed_time(end_event) * 1e6)

    def repeat(self, call: Callable[[], Any], seconds: float, at_least: int) -> list[tuple[int, int]]:
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
