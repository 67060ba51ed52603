"""How long training steps take, with and without hooks: what the capture itself costs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

# Steps just before a capture that are compared with those in it.
MOST_STEPS = 8


class StepIntervals:
    """Times from the end of a step to the end of the next one, on the host's clock, ns.

    A device may be behind, but over several steps host and device keep the same pace.
    """

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._clock = clock
        self._last: int | None = None
        self._plain: deque[int] = deque(maxlen=MOST_STEPS)

    def end_step(self, plain: bool) -> int | None:
        """A step is over; its interval, None for the first one. plain: it ran without hooks."""
        now, last = self._clock(), self._last
        self._last = now
        if last is None:
            return None
        if plain:
            self._plain.append(now - last)
        return now - last

    def restart(self) -> None:
        """The next step's interval begins now."""
        self._last = self._clock()

    def take(self) -> list[int]:
        """The intervals of the last steps that ran without hooks; they are forgotten."""
        plain = list(self._plain)
        self._plain.clear()
        return plain
