"""Where times come from: the host clock, or CUDA events on the stream where the work runs.

A mark is taken with `now()` and turned into nanoseconds since the Unix epoch later, by
`resolve()`, because the time of a CUDA event is not known until the GPU has passed it. Taking a
mark never synchronises.
"""

from __future__ import annotations

import time
from typing import Any, Protocol


class Clock(Protocol):
    """Marks and their resolution."""

    source: str

    def now(self) -> Any:
        """Take a mark."""
        ...

    def start_step(self) -> None:
        """Begin a step: marks of a step are resolved relative to it."""
        ...

    def seal_step(self) -> Any:
        """A token for the step just ended; give it to `resolved` and `resolver`."""
        ...

    def ready(self, token: Any) -> bool:
        """Whether all marks of the sealed step can be resolved without waiting."""
        ...

    def resolver(self, token: Any) -> Any:
        """A function from a mark of the sealed step to nanoseconds; waits for the device."""
        ...


class HostClock:
    """`time.perf_counter_ns`, shifted to the Unix epoch once so that ranks of a host agree."""

    source = "host"

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.perf_counter_ns()
        self.now = time.perf_counter_ns

    def start_step(self) -> None:
        pass

    def seal_step(self) -> None:
        return None

    def ready(self, token: None) -> bool:
        return True

    def resolver(self, token: None) -> Any:
        offset = self._offset
        return lambda mark: mark + offset


class CudaClock:
    """CUDA events, recorded on the current stream, pooled and reused.

    `elapsed_time` returns single-precision milliseconds, so marks are measured from an event at
    the beginning of their own step, not of the run, to keep better than a microsecond.
    """

    source = "cuda_event"

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._free: list[Any] = []
        self._used: list[Any] = []
        self._base: Any = None
        self._base_ns = 0

    def now(self) -> Any:
        event = self._free.pop() if self._free else self._torch.cuda.Event(enable_timing=True)
        event.record()
        self._used.append(event)
        return event

    def start_step(self) -> None:
        self._used = []
        self._base = self.now()
        # The host clock at the enqueue of the base event; the GPU reaches it a little later.
        self._base_ns = time.time_ns()

    def seal_step(self) -> tuple[Any, int, Any, list[Any]]:
        last = self.now()
        token = (self._base, self._base_ns, last, self._used)
        self._used = []
        return token

    def ready(self, token: tuple[Any, int, Any, list[Any]]) -> bool:
        return bool(token[2].query())

    def resolver(self, token: tuple[Any, int, Any, list[Any]]) -> Any:
        base, base_ns, last, used = token
        last.synchronize()
        for event in used:
            # Events of other streams (communication) may end after the last one on this stream.
            if not event.query():
                event.synchronize()
        self._free.extend(used)
        return lambda mark: base_ns + round(base.elapsed_time(mark) * 1e6)


def choose_clock() -> Clock:
    """CUDA events where CUDA is in use, the host clock elsewhere."""
    import torch

    # Test set-ups replace torch.cuda on machines without a GPU: ask for a compiled-in CUDA too.
    if torch.version.cuda is not None and torch.cuda.is_available():
        return CudaClock()
    return HostClock()
