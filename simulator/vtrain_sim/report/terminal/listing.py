"""Prints lists of names: arguments, presets."""

from __future__ import annotations

from rich.console import Console

from vtrain_sim.report.tables import table
from vtrain_sim.report.terminal.printing import printers
from vtrain_sim.results import Table, columns_of


@printers.register(Table)
def print_table(result: Table, out: Console, rows: bool) -> None:
    """The rows; columns of words are aligned left, as text that may be folded."""
    if not rows:
        return
    lines = result.rows()
    columns = columns_of(lines)
    prose = [name for name in columns if any(isinstance(line.get(name), str) for line in lines)]
    out.print(table("", columns, [[line.get(name) for name in columns] for line in lines], 1, prose))
