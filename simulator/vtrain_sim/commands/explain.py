"""``vtrain-sim explain``: what binds one configuration, and what one change at a time would bring."""

from __future__ import annotations

from pathlib import Path

import typer

from vtrain_schemas.option_groups import with_groups
from vtrain_sim.commands.job import JobOptions
from vtrain_sim.commands.output import FORMAT, REPORT, check_files, check_format, show, write_files, write_report


@with_groups
def explain(
    context: typer.Context,
    *,
    source: JobOptions,
    as_json: bool = typer.Option(False, "--json", help="Print vtrain.sensitivity/1 as JSON."),
    form: str = FORMAT,
    table_file: Path = typer.Option(None, "--table", help="Write the changes to a .csv or .parquet file."),
    plot: Path = typer.Option(None, "--plot", help="Draw the changes: a .png, .svg or .pdf."),
    report: Path = REPORT,
) -> None:
    """Say what binds a configuration, and what one change at a time would bring.

    A faster machine (products, memory, links, launches), another micro batch size, tp, pp, cp, ep or recomputation:
    each is projected; the one that shortens the step most comes first.
    """
    from vtrain_sim.api import explain as api

    check_files(table_file, plot, report)
    form = check_format(form, as_json)
    job = source.read(context.args)
    result = api.explain(job)
    write_files(result, table_file, plot)
    write_report(report, result)
    show(result, form)
