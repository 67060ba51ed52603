"""Where times come from: the host clock, or CUDA events on the stream where the work runs.

A mark is taken with `now()` and turned into nanoseconds since the Unix epoch later, because the time
of a CUDA event is not known until the GPU has passed it. Taking a mark never synchronises.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeAlias

from vtrain_plugin.capture.device import cuda_in_use


class CudaEvent(Protocol):
    """What is used of ``torch.cuda.Event``."""

    def record(self) -> None: ...

    def query(self) -> bool: ...

    def elapsed_time(self, end_event: CudaEvent) -> float: ...


Mark: TypeAlias = "int | CudaEvent"
Resolver: TypeAlias = Callable[[Mark], int]


class SealedStep(Protocol):
    """The marks of one step that is over."""

    def ready(self) -> bool:
        """Whether all marks of the step can be resolved without waiting."""
        ...

    def resolver(self) -> Resolver:
        """A function from a mark of the step to nanoseconds since the Unix epoch; the step must be `ready`.

        It asks no device.
        """
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

    def resolver(self) -> Resolver:
        offset_ns = self._offset_ns

        def resolve(mark: Mark) -> int:
            assert isinstance(mark, int)
            return mark + offset_ns

        return resolve


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
        return event

    def start_step(self) -> None:
        self._used = []
        self._stream = self._current_stream()
        self._base = self.now()
        # The host clock at the enqueue of the base event; the GPU reaches it a little later.
        self._base_ns = time.time_ns()

    def seal_step(self) -> CudaStep:
        assert self._base is not None
        last = self.now()
        sealed = CudaStep(self._base, self._base_ns, last, self._used, self._free)
        self._used = []
        return sealed


class CudaStep:
    """CUDA events of one step. Once their times are known they go back to the pool.

    base, base_ns: the step's first event and the host's time then. last: its last event on this stream.
    """

    def __init__(
        self, base: CudaEvent, base_ns: int, last: CudaEvent, used: list[CudaEvent], pool: list[CudaEvent]
    ) -> None:
        self._base = base
        self._base_ns = base_ns
        self._last = last
        self._used = used
        self._pool = pool

    def ready(self) -> bool:
        # Events of other streams (communication) may end after the last one on this stream.
        return self._last.query() and all(event.query() for event in self._used)

    def resolver(self) -> Resolver:
        base, base_ns = self._base, self._base_ns
        times = {id(event): base_ns + round(base.elapsed_time(event) * 1e6) for event in self._used}
        self._pool.extend(self._used)
        return lambda mark: times[id(mark)]


def choose_clock() -> Clock:
    """CUDA events where CUDA is in use, the host clock elsewhere."""
    return CudaClock() if cuda_in_use() else HostClock()
