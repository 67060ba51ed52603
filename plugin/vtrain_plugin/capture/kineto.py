"""``--kernels``: CUPTI kernels, NCCL kernels and framework operators through torch.profiler (Kineto).

A session runs over each profiled step, and its own writer makes one trace of it, which `vtrain-catalog add` reads
into the tables: nothing of a trace becomes a Python object inside training.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from vtrain_plugin.capture.device import cuda_in_use
from vtrain_plugin.capture.profiler_watch import ProfilerWatch
from vtrain_plugin.capture.sink import Sink

if TYPE_CHECKING:
    from torch.profiler import profile


class KinetoCapture:
    """Runs torch.profiler over some captured steps of one rank; never beside another session of it.

    steps: how many of the captured ones, from the first. why_none: why steps that were to be profiled have no
    kernels; empty where all have.
    """

    def __init__(self, watch: ProfilerWatch, steps: int) -> None:
        self._watch = watch
        self._watch.before_other = self._make_way
        self._left = steps
        self._step = 0
        # The session under way, and the thread that it belongs to.
        self._running: profile | None = None
        self._lost: list[profile] = []
        self._thread = 0
        # Steps that are over: what was recorded of them is with the profiler, outside Python.
        self._done: list[tuple[int, profile]] = []
        self.why_none = ""

    @property
    def running(self) -> bool:
        """Whether a session is under way."""
        return self._running is not None

    def start_step(self, step: int) -> None:
        """Begin to profile a step, if it is one to profile."""
        if self._left < 1 or self.why_none:
            return
        if self._watch.others:
            self.why_none = "another torch.profiler session was under way"
            return
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU]
        if cuda_in_use():
            activities.append(ProfilerActivity.CUDA)
        self._left -= 1
        self._step, self._thread = step, threading.get_ident()
        self._running = profile(activities=activities, record_shapes=True)
        with self._watch.ours():
            self._running.start()

    def end_step(self) -> None:
        """The step is over; so is its session."""
        profiler = self._running
        if profiler is not None:
            self._stop()
            self._done.append((self._step, profiler))

    def _stop(self) -> None:
        assert self._running is not None
        with self._watch.ours():
            self._running.stop()
        self._running = None

    def abandon(self) -> None:
        """Stop, where a session is under way, without keeping what it has seen."""
        if self._running is None or self._thread != threading.get_ident():
            return
        try:
            self._stop()
        except (RuntimeError, AssertionError):
            self._running = None  # it never started

    def _make_way(self) -> None:
        """Another session is about to begin: ours ends before, and what it has seen is not whole."""
        if self._running is None:
            return
        self.why_none = "another torch.profiler session began"
        self.abandon()
        if self._running is not None:
            # Of another thread, which alone may stop it: it is left as it is, and never asked again.
            self._lost.append(self._running)
            self._running = None

    def write(self, sink: Sink) -> None:
        """Write the traces of the steps that are over. Raises OSError where the disk refuses."""
        while self._done:
            step, profiler = self._done.pop(0)
            sink.write_trace(step, profiler.export_chrome_trace)
            if cuda_in_use() and not _has_kernels(profiler):
                self.why_none = "CUPTI gave none: another profiler of the GPU, such as Nsight Systems, holds it"


def _has_kernels(profiler: profile) -> bool:
    """Whether anything in a session ran on a device."""
    from torch.autograd import DeviceType

    results = profiler.profiler.kineto_results if profiler.profiler is not None else None
    return results is not None and any(event.device_type() != DeviceType.CPU for event in results.events())
