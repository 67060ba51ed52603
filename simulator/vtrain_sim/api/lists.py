"""Arguments that take one value or several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import index
from typing import SupportsIndex, cast

from vtrain_sim.errors import UserError

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
        return tuple(_number(part) for part in parts)
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
        chosen += range(int(first), int(last or first) + 1)
    return tuple(chosen)


def _number(value: object) -> int:
    if isinstance(value, bool):
        raise ValueError
    return int(value) if isinstance(value, str) else index(cast(SupportsIndex, value))


def names(value: Names) -> tuple[str, ...]:
    """Names: "fifo", "fifo,edf" or a list."""
    return tuple(value.split(",")) if isinstance(value, str) else tuple(value)
