"""``vtrain-sim validate``: projections against measured iteration times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer


def validate(
    files: list[Path] = typer.Argument(..., help="CSV tables of measured configurations."),
    as_json: bool = typer.Option(False, "--json", help="Print vtrain.validation/1 as JSON."),
    rows: bool = typer.Option(True, help="Print every row, not only the figures."),
    cluster: str = typer.Option(
        "", "--cluster", help="Cluster preset or file that all rows are from (default: by their GPU and network)."
    ),
    plot: Path = typer.Option(None, "--plot", help="Draw projected over measured times: a .png, .svg or .pdf."),
) -> None:
    """Project every row of the tables on bundled data, and compare with what was measured."""
    from vtrain_sim import validation
    from vtrain_sim.projection import BAND_PROBABILITY

    machine = None
    if cluster:
        from vtrain_sim.costs.surfaces import Surfaces
        from vtrain_sim.specs.machines import find_cluster

        spec, surfaces = find_cluster(cluster)
        machine = (spec, Surfaces.from_dict(surfaces))
    results = validation.validate(files, machine)
    if plot is not None:
        from vtrain_sim.errors import UserError
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
    from vtrain_sim.report.tables import console, duration, table

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


def percent(value: Any, sign: bool = False) -> str | None:
    """A fraction as per cent."""
    if value is None:
        return None
    return f"{value:+.1%}" if sign else f"{value:.1%}"
