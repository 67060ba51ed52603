"""Prints a result with the function of its type, or as a card and tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from rich.console import Console

from vtrain_sim.report.dispatch import ByType, simulated
from vtrain_sim.report.tables import console, counted, table
from vtrain_sim.results import Result, Table, columns_of

_HERE = "vtrain_sim.report.terminal."
# Functions take the result, a console, and whether to print all rows or only the figures.
printers: ByType[Callable[[Any, Console, bool], None]] = ByType(
    {
        **simulated(_HERE, but=("timeline",)),
        "vtrain_sim.calibration.result.CalibrationResult": _HERE + "calibration",
        "vtrain_sim.calibration.result.TuneResult": _HERE + "calibration",
        "vtrain_sim.results.Listing": _HERE + "listing",
        "vtrain_sim.catalog.results.Added": _HERE + "catalog",
        "vtrain_sim.catalog.results.Removed": _HERE + "catalog",
        "vtrain_sim.catalog.results.Repaired": _HERE + "catalog",
        "vtrain_sim.catalog.results.Compacted": _HERE + "catalog",
        "vtrain_sim.catalog.results.Runs": _HERE + "catalog",
        "vtrain_sim.catalog.results.RunDetail": _HERE + "catalog",
        "vtrain_sim.catalog.results.Problems": _HERE + "catalog",
        "vtrain_sim.catalog.results.QueryResult": _HERE + "catalog",
        "vtrain_sim.catalog.results.Schema": _HERE + "catalog",
        "vtrain_sim.catalog.critical_path.CriticalPath": _HERE + "critical_path",
    }
)


class TerminalRenderer:
    """Tables for people. rows: False leaves out the rows where the figures alone say it."""

    name = "table"

    def __init__(self, rows: bool = True) -> None:
        self.rows = rows

    def render(self, result: Result) -> str:
        """What a terminal shows; without colours where standard output is none."""
        out = console()
        with out.capture() as capture:
            print_result = printers.find(result) or _print_any
            print_result(result, out, self.rows)
        return _tidy(capture.get())


def _tidy(printed: str) -> str:
    """Without spaces at the ends of lines, and one empty line where there are several, none at the ends."""
    lines = "\n".join(line.rstrip() for line in printed.splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip("\n") + "\n"


def _print_any(result: Result, out: Console, rows: bool) -> None:
    """A result that has no function of its own."""
    head = counted(len(result.rows()), result.name) if isinstance(result, Table) else repr(result)
    out.out(head, highlight=False)
    for title, lines in result.tables().items():
        if rows and lines:
            columns = columns_of(lines)
            out.print(table(title, columns, [[line.get(name) for name in columns] for line in lines]))
