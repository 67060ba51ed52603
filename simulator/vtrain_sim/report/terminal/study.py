"""A study for the terminal."""

from __future__ import annotations

from rich.console import Console

from vtrain_sim.decide.study import StudyResult
from vtrain_sim.report.tables import duration, table
from vtrain_sim.report.terminal.printing import printers


@printers.register(StudyResult)
def print_study(result: StudyResult, console: Console, rows: bool = True) -> None:
    """The best plan of each unit."""
    lines = result.rows()
    shown = [tuple(_shown(name, value) for name, value in line.items()) for line in lines]
    console.print(table("best plan of each unit (modelled)", tuple(lines[0]), shown, left=2))


def _shown(name: str, value: object) -> object:
    if isinstance(value, float) and name == "iteration_time_s":
        return duration(value)
    if isinstance(value, float) and name == "mfu":
        return f"{value:.1%}"
    return value
