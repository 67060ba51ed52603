"""Numbers of a Kineto trace: times as nanoseconds, and whole numbers of values that may be anything.

The trace writes microseconds, as integers or with fractions, from the Unix epoch or from
``baseTimeNanoseconds``; nanoseconds are recognised by their size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TypeGuard

import numpy as np

from vtrain_sim.errors import UserError
from vtrain_sim.ingest.json_events import Value
from vtrain_sim.ingest.notes import NOTED, Notes
from vtrain_sim.ingest.trace import Bools, Ints

# A microsecond count since 1970 stays below this for three thousand years; nanoseconds passed it in 1973.
_NANOSECONDS_ABOVE = 1e17
# Relative to a base time no trace is thirty years long: such times count from 1970 themselves.
_ABSOLUTE_ABOVE_NS = 1e18
# No cluster has more; a larger number is damage.
MOST_RANKS = 1 << 24
# Nanoseconds from any epoch stay below this, and sums of three of them within 64 bits.
_LATEST = 1 << 61


class TimeScale:
    """Turns the times of one trace into nanoseconds; remarks go into the notes.

    The first block of times that it sees decides what the trace's unit is. The base time may stand behind the events:
    `base_ns` is right once all of them were read, and is added to the times then.
    """

    def __init__(self, metadata: Mapping[str, object], where: str, notes: Notes) -> None:
        self._metadata, self._where, self._notes = metadata, where, notes
        self._unit_ns = 0
        self._largest_ns = 0.0

    def times(self, values: Sequence[Value]) -> tuple[Ints, Bools]:
        """Times from the trace's own beginning of time, ns, and which of the values are times."""
        if not self._unit_ns:
            self._recognise(values)
        return scaled(values, self._unit_ns)

    def durations(self, values: Sequence[Value]) -> tuple[Ints, Bools]:
        """Durations, ns, and which of the values are durations."""
        return scaled(values, self._unit_ns or 1000)

    def base_ns(self) -> int | None:
        """What the times count from, ns since 1970; None where that is not known. Raises `UserError` for no time."""
        base = self._metadata.get("baseTimeNanoseconds")
        if base is not None and not (isinstance(base, int) and 0 <= base < _LATEST):
            raise UserError(
                f"{self._where} counts its times from baseTimeNanoseconds {base!r}, which is no time: expected whole "
                "nanoseconds since 1970, such as 1711964646000000000"
            )
        absolute = self._largest_ns >= _ABSOLUTE_ABOVE_NS
        if base and absolute:
            reason = "has a base time, but its times count from 1970 already: base left out"
            self._notes.add("files", NOTED, reason)
        if not base and not absolute:
            reason = "does not say when it was recorded: its times count from an unknown moment"
            self._notes.add("files", NOTED, reason)
            return None
        return base if isinstance(base, int) and not absolute else 0

    def _recognise(self, values: Sequence[Value]) -> None:
        largest = max((abs(v) for v in map(number, values) if v is not None), default=0.0)
        self._unit_ns = 1 if largest > _NANOSECONDS_ABOVE else 1000
        self._largest_ns = largest * self._unit_ns
        if self._unit_ns == 1:
            reason = "writes nanoseconds where the format has microseconds: read as nanoseconds"
            self._notes.add("files", NOTED, reason)


def scaled(values: Sequence[Value], unit_ns: int) -> tuple[Ints, Bools]:
    """Times in nanoseconds, and which of them are numbers. Whole numbers and text stay exact, to the nanosecond."""
    try:
        numbers = np.array(values)
    except (ValueError, OverflowError):
        numbers = np.array([None])
    if numbers.dtype.kind == "i" and numbers.ndim == 1:
        good = np.abs(numbers) < _LATEST // unit_ns
        return np.where(good, numbers, 0).astype(np.int64) * unit_ns, good
    if numbers.dtype.kind != "f" or numbers.ndim != 1:
        times = [_nanoseconds(value, unit_ns) for value in values]
        good = np.array([time is not None for time in times], dtype=bool)
        return np.array([time or 0 for time in times], dtype=np.int64), good
    good = np.isfinite(numbers) & (np.abs(numbers) < float(_LATEST) / unit_ns)
    numbers = np.where(good, numbers, 0.0)
    whole = np.floor(numbers)
    return whole.astype(np.int64) * unit_ns + np.rint((numbers - whole) * unit_ns).astype(np.int64), good


def _nanoseconds(value: Value, unit_ns: int) -> int | None:
    """One time; None for what is none."""
    if isinstance(value, str) and unit_ns == 1000 and value[-4:-3] == "." and value[:-4].isdigit():
        # As the profiler writes it: microseconds and three digits.
        try:
            time = int(value[:-4] + value[-3:])
        except ValueError:
            return None
        return time if time < _LATEST else None
    if number(value) is None:
        return None
    try:
        exact = Decimal(value) * unit_ns
        return round(exact) if abs(exact) < _LATEST else None
    except (ArithmeticError, TypeError, ValueError):
        return None


def column(values: Iterable[int], count: int) -> Ints:
    """`count` whole numbers as an array."""
    return np.fromiter(values, dtype=np.int64, count=count)


def number(value: Value) -> float | None:
    """A number, also one that is written as text; None for anything else."""
    if isinstance(value, bool):
        return None
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return result if abs(result) < 9e18 else None


def integer(value: Value) -> int:
    """A whole number, -1 for what is none."""
    if value is None:
        return -1
    if type(value) is int and -(1 << 62) < value < 1 << 62:
        return value
    result = number(value)
    return -1 if result is None or result != result else int(result)


def is_rank(value: object) -> TypeGuard[int]:
    """Whether a value can be a rank or a number of ranks."""
    return type(value) is int and 0 <= value < MOST_RANKS


def rank_or(value: object, otherwise: int) -> int:
    """A rank, or something else where the value is none."""
    return value if is_rank(value) else otherwise
