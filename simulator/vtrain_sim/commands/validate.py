"""``vtrain-sim validate``: projections against measured iteration times."""

from __future__ import annotations

import json
from pathlib import Path

import typer


def validate(
    files: list[Path] = typer.Argument(None, help="CSV tables of measured configurations."),
    as_json: bool = typer.Option(False, "--json", help="Print vtrain.validation/1 as JSON."),
    rows: bool = typer.Option(True, help="Print every row, not only the figures."),
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
) -> None:
    """Project every row of the tables on bundled data, and compare with what was measured.

    With --run, simulate the configuration of a captured step, and compare it layer by layer and operator by
    operator. A torch.profiler or Nsight Systems trace does not say its configuration: --cluster, and --model
    or a file of Megatron's arguments, say it.
    """
    from vtrain_sim.errors import UserError
    from vtrain_sim.simulate.projection import BAND_PROBABILITY
    from vtrain_sim.validate import tables as validation

    if run:
        if files or plot is not None:
            raise UserError("--run compares with one captured run: leave out tables and --plot")
        _captured(run, catalog, cluster, model, megatron_args, spec, num_gpus, modelled, as_json, rows)
        return
    for name, given in (
        ("--catalog", catalog),
        ("--model", model),
        ("--megatron-args", megatron_args),
        ("--spec", spec),
        ("--num-gpus", num_gpus),
        ("--modelled", modelled),
    ):
        if given:
            raise UserError(f"{name} goes with --run: tables say their own configurations")
    if not files:
        raise UserError("nothing to compare with: give CSV tables, or --catalog and --run")

    machine = None
    if cluster:
        from vtrain_sim.costs.surfaces import Surfaces
        from vtrain_sim.inputs.lookup import find_cluster

        described, surfaces = find_cluster(cluster)
        machine = (described, Surfaces.from_dict(surfaces))
    results = validation.validate(files, machine)
    if plot is not None:
        from vtrain_sim.report.figures import scatter

        points = {r.file: [(x.measured_s, x.predicted_s) for x in r.rows if x.predicted_s] for r in results}
        points = {name: pairs for name, pairs in points.items() if pairs}
        if not points:
            raise UserError("there is nothing to draw: no row could be simulated")
        scatter(plot, points)
    if as_json:
        print(
            json.dumps(
                {
                    "schema": validation.SCHEMA,
                    "band_probability": BAND_PROBABILITY,
                    "files": [r.to_dict() for r in results],
                    "rows": [{"file": r.file, **row.to_dict()} for r in results for row in r.rows],
                },
                indent=2,
            )
        )
        return
    from vtrain_sim.report.tables import console, duration, percent, table

    out = console()
    for result in results:
        if rows:
            lines = [
                (
                    row.id,
                    duration(row.measured_s),
                    duration(row.predicted_s),
                    percent(row.error, sign=True),
                    f"recomputation not stated: up to {duration(row.full_recompute_s)}" if row.full_recompute_s else "",
                )
                if row.predicted_s is not None
                else (row.id, duration(row.measured_s), None, None, row.reason)
                for row in result.rows
            ]
            out.print(table(result.file, ("row", "measured", "projected", "error", "remark"), lines))
    names = ("mape", "median_ape", "bias", "p90", "r2", "pairwise_order", "regret", "coverage", "memory_mape")
    figures = [
        (r.file, len(r.rows), sum(x.predicted_s is not None for x in r.rows), *(percent(getattr(r, n)) for n in names))
        for r in results
    ]
    out.print(table("figures", ("file", "rows", "simulated", *names), figures))


def _captured(
    run: str,
    catalog: Path | None,
    cluster: str,
    model: str,
    megatron_args: Path | None,
    spec: Path | None,
    num_gpus: int,
    modelled: bool,
    as_json: bool,
    rows: bool,
) -> None:
    from vtrain_sim.catalog import Catalog
    from vtrain_sim.commands.run_projector import from_run, read_flag_files
    from vtrain_sim.validate.captured import compare

    flags, cluster, model, num_gpus = read_flag_files([], spec, megatron_args, cluster, model, num_gpus)
    projector, configuration = from_run(catalog, [run], cluster, model, num_gpus, flags, not modelled)
    assert catalog is not None
    comparison = compare(Catalog(catalog), run, projector, configuration)
    if as_json:
        print(json.dumps(comparison.to_dict(), indent=2))
        return
    from vtrain_sim.report.comparison import print_comparison
    from vtrain_sim.report.tables import console

    print_comparison(comparison, console(), rows)
