"""A GPU that only keeps time: a host that launches, a queue, and a device that works through it."""

from __future__ import annotations

from collections import deque


class SimulatedGpu:
    """Stands in for ``torch.cuda``. Times in ns.

    depth: launches that the queue holds; the host waits for room beyond it. ghz: cycles per ns of the spin kernel.
    """

    def __init__(self, depth: int = 1024, ghz: float = 1.4) -> None:
        self.host = 0
        self.device = 0
        self.depth, self.ghz = depth, ghz
        self.idle = 0
        self._pending: deque[int] = deque()

    def clock(self) -> int:
        return self.host

    def launch(self, host_ns: int, device_ns: int) -> None:
        """The host takes `host_ns` to launch what takes the device `device_ns`."""
        self.host += host_ns
        while self._pending and self._pending[0] <= self.host:
            self._pending.popleft()
        if len(self._pending) >= self.depth:
            self.host = max(self.host, self._pending.popleft())
        self.idle += max(0, self.host - self.device)
        self.device = max(self.device, self.host) + device_ns
        self._pending.append(self.device)

    def synchronize(self) -> None:
        self.host = max(self.host, self.device)

    def _sleep(self, cycles: int) -> None:
        self.launch(5_000, round(cycles / self.ghz))

    def Event(self, *, enable_timing: bool) -> SimulatedEvent:
        assert enable_timing
        return SimulatedEvent(self)


class SimulatedEvent:
    """Stands in for ``torch.cuda.Event``."""

    def __init__(self, gpu: SimulatedGpu) -> None:
        self._gpu = gpu
        self.at = 0

    def record(self) -> None:
        self._gpu.launch(1_000, 0)
        self.at = self._gpu.device

    def query(self) -> bool:
        return self.at <= self._gpu.host

    def synchronize(self) -> None:
        self._gpu.host = max(self._gpu.host, self.at)

    def elapsed_time(self, end_event: SimulatedEvent) -> float:
        return (end_event.at - self.at) / 1e6
