"""``tune``: fit what microbenchmarks leave open to measured training steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.calibration import tuning
from vtrain_sim.calibration.result import FileError, TuneResult
from vtrain_sim.calibration.tuning import Sample
from vtrain_sim.errors import UserError
from vtrain_sim.validate.tables import samples_of


def tune(
    files: str | Path | Sequence[str | Path],
    *,
    priors: str,
    rounds: int = 10,
    cross_validate: bool = False,
    start_from_presets: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> TuneResult:
    """Find the most probable coefficients given the priors and measured configurations.

    files: CSV tables, as for `validate`; rows of other GPUs and of mixtures of experts are left out. priors: prior
    file, a100, h100 or blackwell. rounds: most rounds of the descent.
    cross_validate: also tune without each model size and file. start_from_presets: begin at the bundled values
    instead of the priors' expectations. progress: called with a line for each round, and for rows left out.
    Raises `UserError`.

    >>> import vtrain as vt
    >>> result = vt.tune("measured.csv", priors="a100", rounds=1)
    >>> result.rows()[0]["tuned"] > 0
    True
    """
    paths = [Path(f) for f in ([files] if isinstance(files, (str, Path)) else files)]
    coefficients = tuning.coefficients(priors)
    samples = [s for path in paths for s in samples_of(path, priors, progress)]
    if not samples:
        raise UserError("no row of these tables can be tuned to: all are left out, for the reasons above")
    begin = [tuning.preset_value(c, samples) for c in coefficients] if start_from_presets else None
    values = tuning.tune(samples, coefficients, begin, rounds, progress)
    measured = np.array([s.measured_s for s in samples])
    errors = {"tuned": tuning.predict(samples, coefficients, values) / measured - 1}
    for by in ("size", "file") if cross_validate else ():
        errors[f"without its {by}"] = tuning.cross_validate(samples, coefficients, values, by)
    by_file = [e for name, error in errors.items() for e in _by_file(name, samples, error)]
    return TuneResult(tuple(coefficients), tuple(values), tuple(by_file))


def _by_file(name: str, samples: Sequence[Sample], error: NDArray[np.float64]) -> list[FileError]:
    figures = []
    for file in sorted({s.file for s in samples}):
        rows = error[[i for i, s in enumerate(samples) if s.file == file]]
        size = np.abs(rows)
        figures.append(FileError(name, file, len(rows), float(size.mean()), float(np.median(size)), float(rows.mean())))
    return figures
