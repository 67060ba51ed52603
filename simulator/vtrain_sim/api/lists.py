"""Arguments that take one value or several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import index
from typing import SupportsIndex, cast

from vtrain_sim.errors import UserError
from vtrain_sim.specs.checks import whole

# Of a stage or microbatch.
_MOST_DIGITS = 6

Numbers = int | str | Sequence[int]
Names = str | Sequence[str]


def numbers(flag: str, value: object) -> tuple[int, ...]:
    """Whole numbers: 512, "512,1024" or a list. Raises `UserError`."""
    parts: Iterable[object] = ()
    if isinstance(value, str):
        parts = value.split(",") if value else ()
    elif isinstance(value, Iterable):
        parts = list(value)
    else:
        parts = (value,)
    try:
        return tuple(map(_number, parts))
    except (TypeError, ValueError):
        raise UserError(f"{flag} is {value!r}: it takes a whole number, or several separated by commas") from None


def ranges(flag: str, text: str) -> tuple[int, ...] | None:
    """Whole numbers and ranges of them: "0,7,12-15"; None for an empty text. Raises `UserError`."""
    if not text:
        return None
    chosen: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(f"{flag} is {text!r}: it takes whole numbers and ranges, for example 0,7,12-15")
        begin, end = _position(flag, first), _position(flag, last or first)
        if end < begin:
            raise UserError(f"{flag} is {text!r}: {part} ends before it begins")
        chosen += range(begin, end + 1)
    return tuple(chosen)


def some(flag: str, value: object, at_least: int) -> tuple[int, ...]:
    """As `numbers`; raises `UserError` also for none at all, and for one below `at_least`."""
    chosen = numbers(flag, value)
    if not chosen:
        raise UserError(f"{flag} is empty: it takes a whole number, or several separated by commas")
    for number in chosen:
        whole(flag, number, at_least)
    return chosen


def _position(flag: str, text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise UserError(f"{flag} is {text}: that is beyond any pipeline")
    return int(text)


def _number(value: object) -> int:
    if isinstance(value, bool):
        raise ValueError
    return int(value) if isinstance(value, str) else index(cast(SupportsIndex, value))


def names(value: Names) -> tuple[str, ...]:
    """Names: "fifo", "fifo,edf" or a list."""
    return tuple(value.split(",")) if isinstance(value, str) else tuple(value)
