"""Checks that every spec shares. A message names the flag, the value and what would be valid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vtrain_sim.errors import SpecError, nearest

__all__ = ["LARGEST", "Range", "SpecError", "divides", "finite", "known_words", "one_of", "positive", "whole"]

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


@dataclass(frozen=True)
class Range:
    """The numbers that an entry may have. or_zero: 0 too, below `least`."""

    least: float
    most: float
    or_zero: bool = False
    whole: bool = False

    def _has(self, value: float) -> bool:
        return self.least <= value <= self.most or (self.or_zero and value == 0)

    def check(self, entry: str, value: object) -> None:
        """Raise `SpecError` for what is no such number."""
        kinds = (int,) if self.whole else (int, float)
        if not isinstance(value, bool) and isinstance(value, kinds) and self._has(value):
            return
        kind = "whole number" if self.whole else "number"
        zero = ", or 0" if self.or_zero else ""
        raise SpecError(f"{entry} is {value!r}: it takes a {kind} from {self.least:g} to {self.most:g}{zero}")


def one_of(flag: str, value: object, allowed: Sequence[object]) -> None:
    """One of the listed values."""
    if value not in allowed:
        raise SpecError(f"{flag} is {value!r}: it takes one of {', '.join(map(str, allowed))}")


def known_words(flag: str, words: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    """The words without repetitions, in the order of `known`, which has all that the flag takes."""
    known = tuple(known)
    for word in words:
        if word not in known:
            raise SpecError(f"{flag} has {word!r}{nearest(word, known)}: it takes {', '.join(known)}")
    return tuple(word for word in known if word in words)


def divides(flag: str, value: int, of_flag: str, of_value: int) -> None:
    """`value` divides `of_value`."""
    if of_value % value:
        fitting = [d for d in range(1, min(of_value, 4096) + 1) if of_value % d == 0]
        close = sorted(sorted(fitting, key=lambda d: abs(d - value))[:4])
        raise SpecError(
            f"{flag} is {value}, which does not divide {of_flag} ({of_value}): {', '.join(map(str, close))} would"
        )
