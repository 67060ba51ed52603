"""Results of fitting coefficients: sections of a preset, and tuned coefficients with their errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vtrain_sim.calibration.tuning import Coefficient
from vtrain_sim.results import Document, Result, Row


@dataclass(frozen=True, repr=False)
class CalibrationResult(Result):
    """Fitted cost surfaces or networks. toml: sections of a preset. report: a line per fit, with its error.

    collectives: those that a network was fitted to, measured and fitted; seconds, and bytes per second.

    >>> import vtrain as vt
    >>> fit = vt.calibrate(collectives="collectives.csv", cluster="dgx-a100-80gb")
    >>> fit.toml.startswith("[intra_node]")
    True
    """

    toml: str
    report: tuple[str, ...]
    collectives: tuple[Row, ...] = ()

    def summary(self) -> dict[str, object]:
        """The sections that were fitted."""
        sections = [line.strip("[]") for line in self.toml.splitlines() if line.startswith("[")]
        return {"sections": ", ".join(sections)}

    def rows(self) -> list[Row]:
        """One row per line of the report."""
        return [{"report": line} for line in self.report]

    def to_dict(self) -> Document:
        """The machine-readable result, schema vtrain.calibration/1."""
        return {"schema": "vtrain.calibration/1", "toml": self.toml, "report": list(self.report)}


@dataclass(frozen=True)
class FileError:
    """Errors of the rows of one file: fractions. tuning: which coefficients, for example "without its size"."""

    tuning: str
    file: str
    rows: int
    mape: float
    median_ape: float
    bias: float


@dataclass(frozen=True, repr=False)
class TuneResult(Result):
    """Most probable coefficients given their priors and measured steps. values: in the order of coefficients.

    errors: of the projected times, as fractions, per file; with held-out errors where they were requested.

    >>> import vtrain as vt
    >>> result = vt.tune("measured.csv", priors="a100", rounds=1)
    >>> result.errors[0].file, result.errors[0].mape < 1
    ('measured.csv', True)
    """

    coefficients: tuple[Coefficient, ...]
    values: tuple[float, ...]
    errors: tuple[FileError, ...]

    def summary(self) -> dict[str, object]:
        """Coefficients, and the mean absolute error of each file with them."""
        tuned = {f"mape {e.file}": e.mape for e in self.errors if e.tuning == "tuned"}
        return {"coefficients": len(self.coefficients), **tuned}

    def rows(self) -> list[Row]:
        """One row per coefficient. sigmas: distance from the prior's value, in its standard deviations."""
        return [
            {
                "coefficient": c.name,
                "prior": c.value,
                "tuned": value,
                "sigmas": math.log(value / c.value) / c.sigma,
                "source": c.source,
            }
            for c, value in zip(self.coefficients, self.values, strict=True)
        ]

    def tables(self) -> dict[str, list[Row]]:
        """The coefficients and the errors."""
        return {"coefficients": self.rows(), "errors": [vars(e) for e in self.errors]}

    def to_dict(self) -> Document:
        """The machine-readable result, schema vtrain.tuning/1."""
        return {"schema": "vtrain.tuning/1", **self.tables()}
