"""``vtrain-sim tune``: fit what microbenchmarks leave open to measured training steps."""

from __future__ import annotations

from pathlib import Path

import typer

from vtrain_sim.commands.notices import notice
from vtrain_sim.commands.output import FORMAT, JSON, check_format, show


def tune(
    files: list[Path] = typer.Argument(..., help="CSV tables of measured configurations, as for validate."),
    priors: str = typer.Option(..., "--priors", help="Prior file: a100, h100 or blackwell."),
    rounds: int = typer.Option(10, min=1, max=100, help="Most rounds of the descent."),
    cross_validate: bool = typer.Option(False, "--cross-validate", help="Also tune without each model size and file."),
    start_from_presets: bool = typer.Option(
        False, "--start-from-presets", help="Begin at the bundled values instead of the priors' expectations."
    ),
    as_json: bool = JSON,
    form: str = FORMAT,
) -> None:
    """Find the most probable coefficients given the priors and the rows, and print them with the errors.

    Rows of GPUs that the priors are not about are left out, and so are mixtures of experts.
    """
    from vtrain_sim.api import tune as api

    form = check_format(form, as_json)
    result = api.tune(
        files,
        priors=priors,
        rounds=rounds,
        cross_validate=cross_validate,
        start_from_presets=start_from_presets,
        progress=notice,
    )
    show(result, form)
