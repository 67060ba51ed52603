"""``vtrain-sim tune``: fit what microbenchmarks leave open to measured training steps."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from vtrain_sim.errors import UserError


def tune(
    files: list[Path] = typer.Argument(..., help="CSV tables of measured configurations, as for validate."),
    priors: str = typer.Option(..., "--priors", help="Prior file: a100 or h100."),
    rounds: int = typer.Option(10, min=1, max=100, help="Most rounds of the descent."),
    cross_validate: bool = typer.Option(False, "--cross-validate", help="Also tune without each model size and file."),
    start_from_presets: bool = typer.Option(
        False, "--start-from-presets", help="Begin at the bundled values instead of the priors' expectations."
    ),
) -> None:
    """Find the most probable coefficients given the priors and the rows, and print them with the errors."""
    import numpy as np

    from vtrain_sim.calibration import tuning
    from vtrain_sim.report.tables import console, table
    from vtrain_sim.validate import tables as validation

    found = tuning.coefficients(priors)
    samples = [s for f in files for s in validation.samples_of(f)]
    # Groups that cross nodes are no layout that anyone should choose, and say little about anything else.
    samples = [s for s in samples if s.configuration.parallel.tp <= 8]
    if not samples:
        raise UserError("no row of these tables can be simulated")
    begin = [tuning.preset_value(c, samples) for c in found] if start_from_presets else None
    values = tuning.tune(samples, found, begin, rounds, lambda line: print(line, file=sys.stderr))
    measured = np.array([s.measured_s for s in samples])
    errors = {"tuned": tuning.predict(samples, found, values) / measured - 1}
    if cross_validate:
        for by in ("size", "file"):
            errors[f"without its {by}"] = tuning.cross_validate(samples, found, values, by)
    out = console()
    rows = [
        (c.name, c.value, value, f"{np.log(value / c.value) / c.sigma:+.1f}", c.source)
        for c, value in zip(found, values, strict=True)
    ]
    out.print(table("coefficients", ("", "prior", "tuned", "sigmas", "source of the prior"), rows))
    figures = []
    for name, error in errors.items():
        for file in sorted({s.file for s in samples}):
            own = error[[i for i, s in enumerate(samples) if s.file == file]]
            absolute = np.abs(own)
            figures.append(
                (name, file, len(own), f"{absolute.mean():.1%}", f"{np.median(absolute):.1%}", f"{own.mean():+.1%}")
            )
    out.print(table("errors", ("", "file", "rows", "mape", "median", "bias"), figures, left=2))
