"""``vtrain-sim study``: the best plans of many models on many clusters."""

from __future__ import annotations

from pathlib import Path

import typer

from vtrain_sim.commands.job import RUN_SCRIPT
from vtrain_sim.commands.notices import is_quiet
from vtrain_sim.commands.output import (
    FORMAT,
    REPORT,
    check_files,
    check_format,
    name_notes,
    results_alone_on_stdout,
    show,
    write_files,
    write_report,
)
from vtrain_sim.commands.termination import ended_by_sigterm
from vtrain_sim.commands.workers import ADDRESS, EXECUTOR


def study(
    file: Path = typer.Argument(..., help="Study: a TOML or YAML file with lists of models, clusters and batches."),
    out: Path = typer.Option(
        ..., "--out", help="Directory of the results, one file per unit; a study goes on from it."
    ),
    executor: str = EXECUTOR,
    processes: int = typer.Option(0, "--processes", min=0, help="Units at a time (default: one per core)."),
    address: str = ADDRESS,
    catalog: Path = typer.Option(None, "--catalog", help="Catalog of the captured runs among the models (run:ID)."),
    run_script: bool = RUN_SCRIPT,
    as_json: bool = typer.Option(False, "--json", help="Print all results as JSON."),
    form: str = FORMAT,
    table_file: Path = typer.Option(
        None, "--table", help="Write the best plan of each unit to a .csv or .parquet file."
    ),
    report: Path = REPORT,
) -> None:
    """Plan every model on every cluster with every global batch; interrupted, it goes on where it stopped.

    A model is a preset or a job: of a launch script, spec or captured run the training step is kept, and the layout
    searched. The file takes any option of plan by its name. A unit runs again only where something changed of what it
    is computed from, the content of files included.
    """
    from vtrain_sim.api import study as api
    from vtrain_sim.report.progress import counting

    check_files(table_file, None, report)
    form = check_format(form, as_json)
    with counting("units done", "in all", is_quiet()) as progress, results_alone_on_stdout(), ended_by_sigterm():
        result = api.study(
            file,
            out,
            executor,
            address,
            progress,
            catalog,
            run_script,
            lambda sentence: name_notes([sentence]),
            processes,
        )
    write_files(result, table_file)
    write_report(report, result)
    show(result, form)
