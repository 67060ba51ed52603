"""``vtrain-sim study``: the best plans of many models on many clusters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from vtrain_sim.whole_file import write_file


def study(
    file: Path = typer.Argument(..., help="Study: a TOML or YAML file with lists of models, clusters and batches."),
    out: Path = typer.Option(..., "--out", help="Directory of the results, one file a unit; a study goes on from it."),
    executor: str = typer.Option("local", "--executor", help="local, or ray."),
    address: str = typer.Option("", "--address", help="Address of a Ray cluster (default: one on this machine)."),
    as_json: bool = typer.Option(False, "--json", help="Print all results as JSON."),
    table_file: Path = typer.Option(
        None, "--table", help="Write the best plan of each unit to a .csv or .parquet file."
    ),
) -> None:
    """Plan every model on every cluster with every global batch; interrupted, it goes on where it stopped."""
    from vtrain_sim.decide.study import read_study, run_study
    from vtrain_sim.report.progress import counting
    from vtrain_sim.report.rows import check_name, write_rows
    from vtrain_sim.report.tables import console, duration, table

    if table_file is not None:
        check_name(table_file)
    units = read_study(file)
    with counting("units done", "in all", quiet=as_json) as progress:
        results = run_study(units, out, executor, address, progress)
    rows = []
    for result in results:
        unit, best = result["unit"], (result.get("plans") or [{}])[0]
        names = ("num_gpus", "tp", "pp", "vpp", "dp", "mbs", "recompute", "iteration_time_s", "days", "cost_usd", "mfu")
        rows.append(
            {
                "model": unit["model"],
                "cluster": unit["cluster"],
                "global_batch_size": unit["global_batch_size"],
                **{name: best.get(name) for name in names},
                "reason": result.get("reason", ""),
            }
        )
    if table_file is not None:
        write_file(table_file, lambda stream: write_rows(stream, table_file.suffix, rows))
    if as_json:
        print(json.dumps(results, indent=2))
        return

    def shown(name: str, value: Any) -> Any:
        if value is None or name not in ("iteration_time_s", "mfu"):
            return value
        return duration(value) if name == "iteration_time_s" else f"{value:.1%}"

    lines = [tuple(shown(name, value) for name, value in row.items()) for row in rows]
    console().print(table("best plan of each unit (modelled)", tuple(rows[0]), lines, left=2))
