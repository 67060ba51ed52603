"""The queue of a GPU, kept full while calls are timed.

On an idle queue the time between two events is that of the host that launches, not that of the device. So the
device spins until all that is to be timed is queued.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from vtrain_plugin.capture.clock import CudaEvent

Call = Callable[[], object]

_TRIES = 3
_FIRST_HOLD_NS = 1_000_000
_LONGEST_HOLD_NS = 1_000_000_000
_CALIBRATION_CYCLES = 10_000_000


class TimingEvent(CudaEvent, Protocol):
    """An event that a benchmark, which nothing trains beside, may wait for."""

    def synchronize(self) -> None: ...


class Cuda(Protocol):
    """What is used of ``torch.cuda``. _sleep: a kernel that spins for so many cycles of the GPU's clock."""

    def Event(self, *, enable_timing: bool) -> TimingEvent: ...

    def _sleep(self, cycles: int) -> None: ...

    def synchronize(self) -> None: ...


class DeviceQueue:
    """The current stream of a GPU.

    clock: nanoseconds on the host.
    """

    def __init__(self, cuda: Cuda, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._cuda, self._clock = cuda, clock
        self._cycles_per_ns = self._calibrate()
        self._hold_ns = _FIRST_HOLD_NS

    def _calibrate(self) -> float:
        # The first launch loads the kernel.
        self._cuda._sleep(1)
        begin, end = self.event(), self.event()
        begin.record()
        self._cuda._sleep(_CALIBRATION_CYCLES)
        end.record()
        end.synchronize()
        return _CALIBRATION_CYCLES / max(1.0, begin.elapsed_time(end) * 1e6)

    def event(self) -> TimingEvent:
        """An event that takes the time."""
        return self._cuda.Event(enable_timing=True)

    def synchronize(self) -> None:
        """Wait until the device has done all that was launched."""
        self._cuda.synchronize()

    def hold(self, nanoseconds: float) -> None:
        """Keep the device busy for so long, from when it comes to it; one second at most."""
        self._cuda._sleep(round(min(nanoseconds, _LONGEST_HOLD_NS) * self._cycles_per_ns))

    def time(self, calls: Sequence[Call]) -> tuple[int, bool]:
        """Nanoseconds of all the calls together, and whether the device waited for the host while they ran.

        The device begins with the first call only once the last one is queued. Where that cannot be had (a call
        that waits for the device, more kernels than the queue holds), the duration is that of the host too.
        """
        begin, end = self.event(), self.event()
        for _ in range(_TRIES):
            self._cuda.synchronize()
            self.hold(self._hold_ns)
            begin.record()
            queued_from = self._clock()
            for call in calls:
                call()
            end.record()
            ran_dry = begin.query()
            host_ns = self._clock() - queued_from
            end.synchronize()
            if not ran_dry:
                break
            self._hold_ns = min(_LONGEST_HOLD_NS, 2 * max(self._hold_ns, host_ns))
        return round(begin.elapsed_time(end) * 1e6), ran_dry
