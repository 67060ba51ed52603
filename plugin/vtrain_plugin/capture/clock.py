"""Where times come from: the host clock, or CUDA events on the stream where the work runs.

A mark is taken with `now()` and turned into nanoseconds since the Unix epoch later, because the time
of a CUDA event is not known until the GPU has passed it. Taking a mark never synchronises.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

from vtrain_plugin.capture.device import cuda_in_use


class CudaEvent(Protocol):
    """What is used of ``torch.cuda.Event``."""

    def record(self) -> None: ...

    def query(self) -> bool: ...

    def elapsed_time(self, end_event: CudaEvent) -> float: ...


Mark: TypeAlias = "int | CudaEvent"
Resolver: TypeAlias = Callable[[Mark], int]


class StepTimes(NamedTuple):
    """What the marks of a step say. at: nanoseconds since the Unix epoch of a mark, as the device passed it.

    lag: how far the device was behind the host when it passed a mark, ns, less the least of the step, which is what a
    launch takes. None where the host keeps the time. Neither asks a device.
    """

    at: Resolver
    lag: Resolver | None


class SealedStep(Protocol):
    """The marks of one step that is over."""

    def ready(self) -> bool:
        """Whether all marks of the step can be resolved without waiting."""
        ...

    def times(self) -> StepTimes:
        """The times of the step's marks; it must be `ready`, and is asked once."""
        ...


class Clock(Protocol):
    """Takes marks.

    source: the word for it in `runs.clock_source`.
    """

    source: str

    def now(self) -> Mark:
        """Take a mark."""
        ...

    def side_stream(self) -> int | None:
        """Number of the stream on which marks are taken now; None for the one on which the step began."""
        ...

    def start_step(self) -> None:
        """Begin a step: marks of a step are resolved relative to it."""
        ...

    def seal_step(self) -> SealedStep:
        """The marks of the step just ended."""
        ...


class HostClock:
    """`time.perf_counter_ns`, shifted to the Unix epoch once so that ranks of a host agree."""

    source = "host"

    def __init__(self) -> None:
        self._sealed = HostStep(time.time_ns() - time.perf_counter_ns())
        self.now = time.perf_counter_ns

    def side_stream(self) -> None:
        return None

    def start_step(self) -> None:
        pass

    def seal_step(self) -> HostStep:
        return self._sealed


class HostStep:
    """Marks of the host clock: the same for all steps."""

    def __init__(self, offset_ns: int) -> None:
        self._offset_ns = offset_ns

    def ready(self) -> bool:
        return True

    def times(self) -> StepTimes:
        offset_ns = self._offset_ns

        def resolve(mark: Mark) -> int:
            assert isinstance(mark, int)
            return mark + offset_ns

        return StepTimes(resolve, None)


class CudaClock:
    """CUDA events, recorded on the current stream, pooled and reused.

    `elapsed_time` returns single-precision milliseconds, so marks are measured from an event at
    the beginning of their own step, not of the run, to keep better than a microsecond.
    """

    source = "cuda_event"

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._free: list[CudaEvent] = []
        self._used: list[CudaEvent] = []
        # The host's clock when each of them was enqueued.
        self._enqueued: list[int] = []
        self._base: CudaEvent | None = None
        self._base_ns = 0
        self._stream = 0

    def side_stream(self) -> int | None:
        stream = self._current_stream()
        return None if stream == self._stream else stream

    def _current_stream(self) -> int:
        # torch.cuda.current_stream makes an object each time.
        cuda = self._torch.cuda
        return int(self._torch._C._cuda_getCurrentRawStream(cuda.current_device()))

    def now(self) -> CudaEvent:
        event: CudaEvent = self._free.pop() if self._free else self._torch.cuda.Event(enable_timing=True)
        event.record()
        self._used.append(event)
        self._enqueued.append(time.perf_counter_ns())
        return event

    def start_step(self) -> None:
        self._used, self._enqueued = [], []
        self._stream = self._current_stream()
        self._base = self.now()
        # The host clock at the enqueue of the base event; the GPU reaches it a little later.
        self._base_ns = time.time_ns()

    def seal_step(self) -> CudaStep:
        assert self._base is not None
        last = self.now()
        sealed = CudaStep(self._base_ns, last, self._used, self._enqueued, self._free)
        self._used, self._enqueued = [], []
        return sealed


class CudaStep:
    """CUDA events of one step. Once their times are known they go back to the pool.

    base_ns: the host's time at the first one. last: the last one on this stream. used: all of them. enqueued: the
    host's clock at each.
    """

    def __init__(
        self, base_ns: int, last: CudaEvent, used: list[CudaEvent], enqueued: list[int], pool: list[CudaEvent]
    ) -> None:
        self._base_ns = base_ns
        self._last = last
        self._used = used
        self._enqueued = enqueued
        self._pool = pool

    def ready(self) -> bool:
        # Events of other streams (communication) may end after the last one on this stream.
        return self._last.query() and all(event.query() for event in self._used)

    def times(self) -> StepTimes:
        base, base_ns = self._used[0], self._base_ns
        elapsed = [round(base.elapsed_time(event) * 1e6) for event in self._used]
        begin = self._enqueued[0]
        behind = [device - (host - begin) for device, host in zip(elapsed, self._enqueued, strict=True)]
        least = min(behind)
        at = {id(event): base_ns + ns for event, ns in zip(self._used, elapsed, strict=True)}
        lag = {id(event): ns - least for event, ns in zip(self._used, behind, strict=True)}
        self._pool.extend(self._used)
        return StepTimes(lambda mark: at[id(mark)], lambda mark: lag[id(mark)])


def choose_clock() -> Clock:
    """CUDA events where CUDA is in use, the host clock elsewhere."""
    return CudaClock() if cuda_in_use() else HostClock()
