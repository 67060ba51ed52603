"""``vtrain-sim sweep``: one configuration with some arguments varied."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from vtrain_schemas.option_groups import with_groups
from vtrain_sim.commands.job import JobOptions
from vtrain_sim.commands.notices import is_quiet
from vtrain_sim.commands.output import FORMAT, REPORT, check_files, check_format, show, write_files, write_report
from vtrain_sim.commands.values import value_of
from vtrain_sim.errors import UserError


@with_groups
def sweep(
    context: typer.Context,
    vary: list[str] = typer.Option(..., "--vary", help="Name and values, for example tp=1,2,4; repeat to combine."),
    *,
    source: JobOptions,
    as_json: bool = typer.Option(False, "--json", help="Print vtrain.sweep/1 as JSON."),
    form: str = FORMAT,
    table_file: Path = typer.Option(None, "--table", help="Write the points to a .csv or .parquet file."),
    plot: Path = typer.Option(None, "--plot", help="Draw the iteration times: a .png, .svg or .pdf."),
    report: Path = REPORT,
) -> None:
    """Project every combination of some values; names are short (tp, pp, mbs, ...) or Megatron's with underscores."""
    from vtrain_sim.api import sweep as api
    from vtrain_sim.report.progress import counting

    check_files(table_file, plot, report)
    form = check_format(form, as_json)
    axes: dict[str, list[str | int | bool]] = {}
    for name, values in map(_axis, vary):
        if name in axes:
            raise UserError(f"--vary {name} is given twice: give all its values in one")
        axes[name] = values
    job = source.read(context.args)
    with counting("points projected", "in all", is_quiet()) as progress:
        result = api.sweep(job, progress=progress, **axes)
    write_files(result, table_file, plot)
    write_report(report, result, job)
    show(result, form)
    if not any(point.iteration_time_s for point in result.points):
        # The result, with every reason, is printed already: nothing else goes to standard output.
        print(f"vtrain-sim: no point can be projected: {result.points[0].reason}", file=sys.stderr)
        raise typer.Exit(2)


def _axis(text: str) -> tuple[str, list[str | int | bool]]:
    """Name and values of ``tp=1,2,4``."""
    name, equals, values = text.partition("=")
    if not equals or not name or not values:
        raise UserError(f"--vary is {text!r}: it takes a name and values, for example tp=1,2,4")
    return name.replace("-", "_"), [value_of(v) for v in values.split(",")]
