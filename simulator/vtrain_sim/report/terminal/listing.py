"""What is known by name, for the terminal."""

from __future__ import annotations

from rich.console import Console

from vtrain_sim.report.tables import counted, table
from vtrain_sim.report.terminal.printing import printers
from vtrain_sim.results import Listing, Row, columns_of

# What follows an argument, as a line of usage has it.
_FOLLOWING = {"value": " VALUE", "list": " VALUES", "switch": ""}


@printers.register(Listing)
def print_listing(result: Listing, console: Console, rows: bool = True) -> None:
    """How many there are of each kind, and the names with what is known of them; all columns are text."""
    one, _, rest = result.things.partition(" ")
    kinds = result.counts().items()
    counts = [counted(count, f"{value}s") if result.by == "kind" else f"{count:,} {value}" for value, count in kinds]
    console.print(f"{counted(len(result.rows()), one)}{f' {rest}' if rest else ''}: {', '.join(counts)}")
    lines = [_line(row) for row in result.rows()]
    columns = columns_of(lines)
    console.print(table("", columns, [[line[name] for name in columns] for line in lines], left=len(columns)))


def _line(row: Row) -> Row:
    """A row by column; what follows an argument is with its name."""
    if "takes" not in row:
        return row
    flag = row["flag"] + _FOLLOWING.get(row["takes"], f" {row['takes']}")
    return {"flag": flag, **{name: value for name, value in row.items() if name not in ("flag", "takes")}}
