"""Tables for the terminal: none is wider than the terminal, and no number is broken."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.table import Table
from rich.text import Text

MISSING = "-"
# Where no terminal says how wide it is.
WIDTH = 80
_ENDLESS = 100_000
# A column of text may be folded to so many characters before the table is cut into several.
_LEAST_TEXT = 16
# Names of files and runs are not broken up to this length.
_LONGEST_WORD = 29
# Spaces between columns, and where the table fits only so.
_GAPS = (2, 1)


def console() -> Console:
    """A console as wide as the terminal. In a file or pipe sentences stay on one line, as tools read them."""
    out = Console()
    width = out.width if out.is_terminal or "COLUMNS" in os.environ else WIDTH
    return Console(width=width, soft_wrap=not out.is_terminal, highlight=False)


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


def signed(amount: float, written: Callable[[float], str]) -> str:
    """An amount with its sign. written: how it is written without one."""
    return f"{'-' if amount < 0 else '+'}{written(abs(amount))}"


def as_sentence(words: str) -> str:
    """Words with a capital and a full stop."""
    return f"{words[0].upper()}{words[1:]}."


class FittingTable:
    """A table that fits the width it is printed in.

    left: so many first columns are text, aligned left; prose: names of further columns that are text. Text is folded
    where the table would be too wide; where that is not enough, the columns are cut into several tables, each of
    which repeats the first column, or the number of the row where the first column does not tell the rows apart.
    whole: neither, however wide it is.
    """

    def __init__(
        self,
        title: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[object]],
        left: int = 1,
        prose: Sequence[str] = (),
        whole: bool = False,
    ) -> None:
        self._title, self._columns = title, list(columns)
        self._rows = [[text(value) for value in row] for row in rows]
        self._is_text = [index < left or name in prose for index, name in enumerate(columns)]
        self._whole = whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = sys.maxsize if self._whole else options.max_width
        gap, parts = self._parts(width)
        if len(parts) > 1 and not self._is_told_by_first():
            yield from self._numbered().__rich_console__(console, options)
            return
        if self._title:
            yield from ("", Text(self._title, style="italic"))
        for number, columns in enumerate(parts):
            if number:
                yield ""
            part = options.update(width=min(width, _ENDLESS), no_wrap=False, overflow="fold")
            yield from console.render(self._part(columns, gap, part.max_width), part)
        if self._title:
            yield ""

    def _is_told_by_first(self) -> bool:
        firsts = [row[0] for row in self._rows]
        return len(set(firsts)) == len(firsts)

    def _numbered(self) -> FittingTable:
        numbered = copy(self)
        numbered._columns = ["row", *self._columns]
        numbered._rows = [[str(number), *row] for number, row in enumerate(self._rows, 1)]
        numbered._is_text = [False, *self._is_text]
        return numbered

    def _parts(self, width: int) -> tuple[int, list[list[int]]]:
        """Spaces between columns, and the columns of each table."""
        least = [self._least(index) for index in range(len(self._columns))]
        for gap in _GAPS:
            if sum(least) + gap * (len(least) - 1) <= width:
                return gap, [list(range(len(least)))]
        gap, parts, used = _GAPS[0], [[0]], least[0]
        for index in range(1, len(least)):
            used += gap + least[index]
            if used > width and len(parts[-1]) > 1:
                parts.append([0])
                used = least[0] + gap + least[index]
            parts[-1].append(index)
        return gap, parts

    def _least(self, index: int) -> int:
        """Width below which the column is not folded. Headings may be, between words."""
        heading = max((cell_len(word) for word in self._columns[index].split()), default=0)
        cells = [row[index] for row in self._rows]
        widest = max(map(cell_len, cells), default=0)
        if not self._is_text[index]:
            return max(heading, widest)
        word = max((cell_len(word) for cell in cells for word in cell.split()), default=0)
        return max(heading, min(widest, _LEAST_TEXT), min(word, _LONGEST_WORD))

    def _widths(self, columns: Sequence[int], room: int) -> dict[int, int]:
        """Width of each column; what is left of the room goes to numbers and their headings before text."""
        widths = {index: self._least(index) for index in columns}
        room -= sum(widths.values())
        for index in sorted(columns, key=lambda index: self._is_text[index]):
            more = min(max(0, self._most(index) - widths[index]), max(0, room))
            widths[index] += more
            room -= more
        return widths

    def _most(self, index: int) -> int:
        """Width at which nothing of the column is folded."""
        cells = (self._columns[index], *(row[index] for row in self._rows))
        return max(cell_len(line) for cell in cells for line in (cell.splitlines() or [""]))

    def _part(self, columns: Sequence[int], gap: int, width: int) -> Table:
        # The box has one space between columns itself.
        padding = (0, 0, 0, gap - 1)
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=padding)
        widths = self._widths(columns, width - gap * (len(columns) - 1))
        for index in columns:
            justify: JustifyMethod = "left" if self._is_text[index] else "right"
            name = self._columns[index]
            table.add_column(name, justify=justify, overflow="fold", width=widths[index])
        for row in self._rows:
            table.add_row(*(row[index] for index in columns))
        return table


def table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    left: int = 1,
    prose: Sequence[str] = (),
) -> FittingTable:
    """A table; the first `left` columns and those of `prose` are text, the others are aligned right."""
    return FittingTable(title, columns, rows, left, prose)


def said_once(
    title: str,
    lines: Sequence[Mapping[str, object]],
    names: Collection[str],
    unsaid: Mapping[str, object] | None = None,
    left: int = 1,
) -> FittingTable:
    """A table of rows by column, without those of `names` that are the same in all rows: the title says them.

    unsaid: values that are not worth saying. Columns without any value are left out.
    """
    same = [name for name in lines[0] if name in names and len({line[name] for line in lines}) == 1]
    columns = [name for name in lines[0] if name not in same and any(line[name] is not None for line in lines)]
    said = [f"{name} {lines[0][name]}" for name in same if lines[0][name] not in (None, (unsaid or {}).get(name))]
    heading = ": ".join(part for part in (title, ", ".join(said)) if part)
    return table(heading, columns, [[line[name] for name in columns] for line in lines], left)


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


def billions(number: float) -> str:
    """Billions with four digits, or all before the point: 15,000 and not 1.5e+04."""
    value = number / 1e9
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def percent(value: float | None, sign: bool = False) -> str | None:
    """A fraction as per cent."""
    if value is None:
        return None
    return f"{value:+.1%}" if sign else f"{value:.1%}"
