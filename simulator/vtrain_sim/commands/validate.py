"""``vtrain-sim validate``: projections against measured iteration times."""

from __future__ import annotations

from pathlib import Path

import typer

from vtrain_sim.commands.notices import is_quiet
from vtrain_sim.commands.output import FORMAT, REPORT, check_files, check_format, show, write_files, write_report
from vtrain_sim.errors import UserError


def validate(
    files: list[Path] = typer.Argument(None, help="CSV tables of measured configurations."),
    as_json: bool = typer.Option(False, "--json", help="Print vtrain.validation/1 as JSON."),
    form: str = FORMAT,
    rows: bool = typer.Option(True, help="Print every row, not only the figures and the ten furthest off."),
    cluster: str = typer.Option(
        "", "--cluster", help="Cluster preset or file that all rows are from (default: by their GPU and network)."
    ),
    plot: Path = typer.Option(None, "--plot", help="Draw projected over measured times: a .png, .svg or .pdf."),
    run: str = typer.Option("", "--run", help="Captured run or ingested trace to compare with, instead of tables."),
    catalog: Path = typer.Option(None, "--catalog", help="Catalog that holds the run."),
    model: str = typer.Option("", "--model", help="For a trace: model preset, or a Hugging Face config.json."),
    megatron_args: Path = typer.Option(None, "--megatron-args", help="For a trace: file with Megatron's arguments."),
    spec: Path = typer.Option(None, "--spec", help="For a trace: YAML or TOML file with the same names."),
    num_gpus: int = typer.Option(0, "--num-gpus", min=0, help="For a trace: world size."),
    modelled: bool = typer.Option(False, "--modelled", help="Leave the run's own operator and network times out."),
    report: Path = REPORT,
) -> None:
    """Project every row of the tables on bundled data, and compare with what was measured.

    With --run, simulate the configuration of a captured step, and compare it layer by layer and operator by
    operator. A torch.profiler or Nsight Systems trace does not say its configuration: --cluster, and --model
    or a file of Megatron's arguments, say it.
    """
    from vtrain_sim.api import validate as api
    from vtrain_sim.report.progress import counting

    check_files(None, plot, report)
    form = check_format(form, as_json)
    if run and plot is not None:
        raise UserError("--run compares with one captured run: leave out tables and --plot")
    with counting("rows projected", "in all", is_quiet()) as progress:
        result = api.validate(
            files or (),
            run=run,
            catalog=catalog,
            cluster=cluster,
            model=model,
            megatron_args=megatron_args,
            spec=spec,
            num_gpus=num_gpus,
            modelled=modelled,
            progress=progress,
        )
    write_files(result, None, plot)
    write_report(report, result)
    show(result, form, rows)
