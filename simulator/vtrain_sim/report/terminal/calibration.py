"""Fitted coefficients for the terminal."""

from __future__ import annotations

from rich.console import Console

from vtrain_sim.calibration.result import CalibrationResult, TuneResult
from vtrain_sim.report.tables import table
from vtrain_sim.report.terminal.printing import printers


@printers.register(CalibrationResult)
def print_calibration(result: CalibrationResult, console: Console, rows: bool = True) -> None:
    """The sections of a preset, to be put into a file; the report of the fit is not among them."""
    console.out(result.toml, highlight=False, end="")


@printers.register(TuneResult)
def print_tuning(result: TuneResult, console: Console, rows: bool = True) -> None:
    """The coefficients beside their priors, and the errors of each file."""
    coefficients = [
        (row["coefficient"], row["prior"], row["tuned"], f"{row['sigmas']:+.1f}", row["source"])
        for row in result.rows()
    ]
    columns = ("", "prior", "tuned", "sigmas", "source of the prior")
    console.print(table("coefficients", columns, coefficients, prose=columns[-1:]))
    errors = [
        (e.tuning, e.file, e.rows, f"{e.mape:.1%}", f"{e.median_ape:.1%}", f"{e.bias:+.1%}") for e in result.errors
    ]
    console.print(table("errors", ("", "file", "rows", "mape", "median", "bias"), errors, left=2))
