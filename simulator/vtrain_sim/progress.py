"""What long work calls while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

# How many are done; how many of them count (plans that are feasible, models that train in time, or all that there
# are); and the share of the work that is done, 0 to 1.
Progress: TypeAlias = Callable[[int, int, float], None]


def unwatched(done: int, selected: int, share: float) -> None:
    """Nobody watches."""
