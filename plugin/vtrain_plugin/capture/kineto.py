"""``--kernels``: CUPTI kernels, NCCL kernels and framework operators through torch.profiler (Kineto).

The profiler runs over the captured steps; its trace is read back and turned into rows of the same
tables. Kernel and NCCL times are CUPTI's, so they hold for asynchronous communication too.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from typing import Protocol

from vtrain_plugin.capture.device import cuda_in_use
from vtrain_plugin.capture.kineto_rows import ProfiledStep, trace_rows
from vtrain_plugin.capture.profiler_watch import ProfilerWatch
from vtrain_plugin.capture.rows import Rows


class Profiler(Protocol):
    """What is used of ``torch.profiler.profile``."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def export_chrome_trace(self, path: str) -> None: ...


class KinetoCapture:
    """Runs torch.profiler over the captured steps of one rank; never beside another session of it.

    why_none: why there are no rows; empty where there are some.
    """

    def __init__(self, watch: ProfilerWatch) -> None:
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU]
        if cuda_in_use():
            activities.append(ProfilerActivity.CUDA)
        self._profiler: Profiler = profile(activities=activities, record_shapes=True)
        self._watch = watch
        self._watch.before_other = self._make_way
        self._thread = 0
        self._running = False
        self._steps: list[ProfiledStep] = []
        self.why_none = ""

    def start_step(self, step: int) -> None:
        """Begin to profile (at the first step) and note where the step begins."""
        if not self._running and not self.why_none:
            self._start()
        if self._running:
            self._steps.append(ProfiledStep(step, time.time_ns()))

    def _start(self) -> None:
        if self._watch.others:
            self.why_none = "another torch.profiler session was under way"
            return
        self._thread = threading.get_ident()
        with self._watch.ours():
            self._profiler.start()
        self._running = True

    def end_step(self) -> None:
        """Note where the step ends."""
        if self._running and self._steps:
            self._steps[-1].end_ns = time.time_ns()

    def abandon(self) -> None:
        """Stop without reading anything."""
        if not self._running or self._thread != threading.get_ident():
            return
        self._running = False
        try:
            self._stop()
        except RuntimeError:
            pass

    def _make_way(self) -> None:
        """Another session is about to begin: ours ends before, and what it has seen is not whole."""
        if self._running:
            self.why_none = "another torch.profiler session began"
            self.abandon()

    def _stop(self) -> None:
        with self._watch.ours():
            self._profiler.stop()

    def rows(self, run_id: str, rank: int) -> Rows:
        """Stop, and return the rows of the kernels, operators and collectives tables."""
        if not self._running:
            return {}
        self._running = False
        self._stop()
        handle, path = tempfile.mkstemp(suffix=".json", prefix="vtrain-kineto-")
        os.close(handle)
        try:
            self._profiler.export_chrome_trace(path)
            with open(path, encoding="utf-8") as stream:
                trace = json.load(stream)
        finally:
            os.unlink(path)
        rows = trace_rows(trace, self._steps, run_id, rank)
        if cuda_in_use() and not rows["kernels"]:
            self.why_none = "CUPTI gave none: another profiler of the GPU, such as Nsight Systems, holds it"
        return rows
