"""``vtrain-sim compare``: why one step takes longer than another."""

from __future__ import annotations

from pathlib import Path

import typer

from vtrain_schemas.option_groups import with_groups
from vtrain_sim.commands.job import JobOptions
from vtrain_sim.commands.output import FORMAT, REPORT, check_files, check_format, show, write_files, write_report
from vtrain_sim.commands.sides import HELP, read_side
from vtrain_sim.errors import UserError


@with_groups
def compare(
    context: typer.Context,
    a: str = typer.Argument(..., help=HELP),
    b: str = typer.Argument(..., help="The other one, likewise."),
    *,
    source: JobOptions,
    as_json: bool = typer.Option(False, "--json", help="Print vtrain.difference/1 as JSON."),
    form: str = FORMAT,
    table_file: Path = typer.Option(None, "--table", help="Write the causes to a .csv or .parquet file."),
    plot: Path = typer.Option(None, "--plot", help="Draw the waterfall: a .png, .svg or .pdf."),
    report: Path = REPORT,
) -> None:
    """Say where the difference between two steps comes from: two configurations, two captured runs, or both.

    Options and Megatron's flags are common to both sides and follow them. Examples:
    `vtrain-sim compare base "tp=4 pp=2" --cluster dgx-a100-80gb --model gpt3-13b --tensor-model-parallel-size 8`,
    `vtrain-sim compare old.sh new.sh --cluster dgx-h100`,
    `vtrain-sim compare run:base sim:base --catalog vtrain.duckdb`.
    """
    from vtrain_sim.api.compare import compare as api

    check_files(table_file, plot, report)
    form = check_format(form, as_json)
    for side in (a, b):
        if side.startswith("--") and not side.partition(" ")[2]:
            raise UserError(f"what to compare comes before the flags: {side} stands where a side should")
    common, said = source.given(context.args), set[str]()
    of_a, of_b = (read_side(side, common, source, said) for side in (a, b))
    result = api(of_a, of_b, a, b)
    write_files(result, table_file, plot)
    write_report(report, result)
    show(result, form)
