"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

MISSING = "-"
_LEAST_WIDTH = 160


def console() -> Console:
    """A console that breaks no value: a narrow terminal wraps the lines of a wide table as they are."""
    return Console(width=max(Console().width, _LEAST_WIDTH), soft_wrap=True)


def text(value: object) -> str:
    """One value, readable: numbers short, nothing as a dash."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 100_000 else str(value)
    return str(value)


def counted(count: int, things: str) -> str:
    """A count and what is counted, given in the plural: "1 run", "2 runs"."""
    one = things.removesuffix("es") if things.endswith("sses") else things.removesuffix("s")
    return f"{count:,} {one if count == 1 else things}"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> Table:
    """A table; the first `left` columns are text, the others are aligned right."""
    result = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        result.add_column(column, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        result.add_row(*(text(v) for v in row))
    return result


def gib(size: float) -> str:
    """Bytes as GiB."""
    return f"{size / 2**30:.2f} GiB"


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 100:
        return f"{seconds:.1f} s"
    if seconds >= 0.1:
        return f"{seconds:.3f} s"
    if seconds >= 1e-4:
        return f"{seconds * 1e3:.2f} ms"
    return f"{seconds * 1e6:.1f} us"


def percent(value: float | None, sign: bool = False) -> str | None:
    """A fraction as per cent."""
    if value is None:
        return None
    return f"{value:+.1%}" if sign else f"{value:.1%}"
