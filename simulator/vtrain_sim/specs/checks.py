"""Checks that every spec shares. A message names the flag, the value and what would be valid."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vtrain_sim.errors import SpecError

__all__ = ["LARGEST", "SpecError", "divides", "finite", "one_of", "positive", "whole"]

LARGEST = 1 << 40


def positive(flag: str, value: object) -> None:
    """A whole number of at least 1."""
    whole(flag, value, 1)


def whole(flag: str, value: object, at_least: int) -> None:
    """A whole number of at least `at_least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise SpecError(f"{flag} is {value!r}: it takes a whole number")
    if value < at_least:
        raise SpecError(f"{flag} is {value}: it must be {at_least} or more")
    if value > LARGEST:
        raise SpecError(f"{flag} is {value}: that is beyond any model or cluster ({LARGEST} at most)")


def finite(flag: str, value: object, at_least: float = 0.0) -> None:
    """A finite number of at least `at_least`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise SpecError(f"{flag} is {value!r}: it takes a finite number")
    if value < at_least:
        raise SpecError(f"{flag} is {value}: it must be {at_least} or more")


def one_of(flag: str, value: object, allowed: Sequence[object]) -> None:
    """One of the listed values."""
    if value not in allowed:
        raise SpecError(f"{flag} is {value!r}: it takes one of {', '.join(map(str, allowed))}")


def divides(flag: str, value: int, of_flag: str, of_value: int) -> None:
    """`value` divides `of_value`."""
    if of_value % value:
        fitting = [d for d in range(1, min(of_value, 4096) + 1) if of_value % d == 0]
        close = sorted(sorted(fitting, key=lambda d: abs(d - value))[:4])
        raise SpecError(
            f"{flag} is {value}, which does not divide {of_flag} ({of_value}): {', '.join(map(str, close))} would"
        )
