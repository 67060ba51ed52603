"""The GPU's queue during the training steps of a played rank.

A step of a few layers is launched in about the time that the device takes for it. So the device spins first for as
long as the host took to launch the step before: what the capture's events then enclose is work, not launch gaps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from vtrain_plugin.bench.device import BenchDevice, CudaDevice
from vtrain_plugin.bench.device_queue import DeviceQueue
from vtrain_plugin.capture.clock import CudaEvent

# A recorded step is launched more slowly than one of the warm-up.
_MARGIN = 3


# A device that is less than this behind the host has nothing else to do.
_BEHIND_NS = 20_000


class StepQueue:
    """Nothing to keep full: on the processor a call is over when it returns."""

    @contextmanager
    def kept_full(self, recorded: bool) -> Iterator[None]:
        """Around the launches of a step's forward and backward passes."""
        yield

    def look(self) -> None:
        """Before a forward pass is launched."""

    def waited(self) -> tuple[int, int]:
        """Forward passes of recorded steps before which the device waited for the host, and all of them."""
        return 0, 0

    def remark(self) -> str:
        """A sentence on what the times are worth; empty where there is nothing to say."""
        waited, looked = self.waited()
        if not waited:
            return ""
        return (
            f"the device waited for the host before {waited} of {looked} forward passes: their times have launch gaps "
            "in them (longer sequences or larger micro batches take more of the device)"
        )


class GpuStepQueue(StepQueue):
    """Holds a GPU's queue, and compares where host and device were."""

    def __init__(self, queue: DeviceQueue, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._queue, self._clock = queue, clock
        self._launch_ns: int | None = None
        self._base: _Moment | None = None
        # With the moment at which host and device were at the same point, the beginning of their step.
        self._looks: list[tuple[_Moment, _Moment]] = []

    @contextmanager
    def kept_full(self, recorded: bool) -> Iterator[None]:
        self._queue.synchronize()
        self._base = self._now() if recorded else None
        if self._launch_ns is not None:
            self._queue.hold(_MARGIN * self._launch_ns)
        begin = self._clock()
        yield
        taken = self._clock() - begin
        # Where a pass waits for the device (counts of routed tokens), the host's time has the hold in it.
        self._launch_ns = taken if self._launch_ns is None else min(taken, self._launch_ns)
        self._base = None

    def look(self) -> None:
        if self._base is not None:
            self._looks.append((self._base, self._now()))

    def waited(self) -> tuple[int, int]:
        """Waits for the device."""
        self._queue.synchronize()
        return sum(now.behind(base) < _BEHIND_NS for base, now in self._looks), len(self._looks)

    def _now(self) -> _Moment:
        event, host_ns = self._queue.event(), self._clock()
        event.record()
        return _Moment(event, host_ns)


class _Moment(NamedTuple):
    event: CudaEvent
    host_ns: int

    def behind(self, base: _Moment) -> float:
        """Nanoseconds by which the device reached this moment later than the host did."""
        return base.event.elapsed_time(self.event) * 1e6 - (self.host_ns - base.host_ns)


def step_queue(device: BenchDevice) -> StepQueue:
    """The queue of a device."""
    return GpuStepQueue(device.queue) if isinstance(device, CudaDevice) else StepQueue()
