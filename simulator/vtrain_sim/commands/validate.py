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
) -> None:
    """Project every row of the tables on bundled data, and compare with what was measured."""
    from vtrain_sim import validation
    from vtrain_sim.projection import BAND_PROBABILITY

    results = validation.validate(files)
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
                (row.id, duration(row.measured_s), duration(row.predicted_s), percent(row.error, sign=True), "")
                if row.predicted_s is not None
                else (row.id, duration(row.measured_s), None, None, row.reason)
                for row in result.rows
            ]
            out.print(table(result.file, ("row", "measured", "projected", "error", "not simulated"), lines))
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
