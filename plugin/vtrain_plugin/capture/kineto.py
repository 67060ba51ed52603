"""``--kernels``: CUPTI kernels, NCCL kernels and framework operators through torch.profiler (Kineto).

The profiler runs over the captured steps; its trace is read back and turned into rows of the same
tables. Kernel and NCCL times are CUPTI's, so they hold for asynchronous communication too.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from typing import Protocol

from vtrain_plugin.capture.device import cuda_in_use
from vtrain_plugin.capture.kineto_rows import ProfiledStep, trace_rows
from vtrain_plugin.capture.rows import Rows


class Profiler(Protocol):
    """What is used of ``torch.profiler.profile``."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def export_chrome_trace(self, path: str) -> None: ...


class KinetoCapture:
    """Runs torch.profiler over the captured steps of one rank."""

    def __init__(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU]
        if cuda_in_use():
            activities.append(ProfilerActivity.CUDA)
        self._profiler: Profiler = profile(activities=activities, record_shapes=True)
        self._running = False
        self._steps: list[ProfiledStep] = []

    def start_step(self, step: int) -> None:
        """Begin to profile (at the first step) and note where the step begins."""
        if not self._running:
            self._profiler.start()
            self._running = True
        self._steps.append(ProfiledStep(step, time.time_ns()))

    def end_step(self) -> None:
        """Note where the step ends."""
        if self._steps:
            self._steps[-1].end_ns = time.time_ns()

    def abandon(self) -> None:
        """Stop without reading anything."""
        if self._running:
            self._running = False
            try:
                self._profiler.stop()
            except RuntimeError:
                pass

    def rows(self, run_id: str, rank: int) -> Rows:
        """Stop, and return the rows of the kernels, operators and collectives tables."""
        if not self._running:
            return {}
        self._running = False
        self._profiler.stop()
        handle, path = tempfile.mkstemp(suffix=".json", prefix="vtrain-kineto-")
        os.close(handle)
        try:
            self._profiler.export_chrome_trace(path)
            with open(path, encoding="utf-8") as stream:
                trace = json.load(stream)
        finally:
            os.unlink(path)
        return trace_rows(trace, self._steps, run_id, rank)
