"""Times on a machine that others share: processor time, medians, and ratios of what ran in turn."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable


def seconds(function: Callable[[], object]) -> float:
    """Processor time of one call, that of finished child processes included."""
    begin, children = time.process_time(), os.times()
    function()
    here, finished = time.process_time() - begin, os.times()
    return here + finished.children_user - children.children_user + finished.children_system - children.children_system


def median_s(function: Callable[[], object], rounds: int = 5) -> float:
    """Median seconds of a call."""
    return statistics.median(seconds(function) for _ in range(rounds))


def in_turn(one: Callable[[], object], other: Callable[[], object], rounds: int = 5) -> tuple[float, float]:
    """Median seconds of two functions that are called in turn, so that both meet the same machine."""
    times = [(seconds(one), seconds(other)) for _ in range(rounds)]
    return statistics.median(a for a, _ in times), statistics.median(b for _, b in times)
