"""The result of a validation: all tables together."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_sim.results import Document, Result, Row
from vtrain_sim.simulate.result import BAND_PROBABILITY
from vtrain_sim.validate.figures import FileResult
from vtrain_sim.validate.tables import SCHEMA


@dataclass(frozen=True, repr=False)
class ValidationResult(Result):
    """Projections beside measured iteration times; errors are fractions, times seconds, memory GB.

    files: the rows and figures of each table. mape: mean absolute error; coverage: share of the rows whose
    measurement lies in the band.

    >>> import vtrain as vt
    >>> result = vt.validate("measured.csv")
    >>> [file.file for file in result.files]
    ['measured.csv']
    """

    files: tuple[FileResult, ...]

    def to_dict(self) -> Document:
        """The machine-readable result, schema vtrain.validation/1."""
        return {
            "schema": SCHEMA,
            "band_probability": BAND_PROBABILITY,
            "files": [file.to_dict() for file in self.files],
            "rows": [{"file": file.file, **row.to_dict()} for file in self.files for row in file.rows],
        }

    def summary(self) -> dict[str, object]:
        """Rows, and the mean absolute error over all that were simulated."""
        errors = [abs(row.error) for file in self.files for row in file.rows if row.error is not None]
        return {
            "files": len(self.files),
            "rows": sum(len(file.rows) for file in self.files),
            "simulated": len(errors),
            "mape": sum(errors) / len(errors) if errors else None,
        }

    def rows(self) -> list[Row]:
        """One row per measured configuration."""
        names = ("id", "measured_s", "predicted_s", "low_s", "high_s", "error", "full_recompute_s", "reason")
        memory = ("measured_memory_gb", "predicted_memory_gb", "fits", "bracket_low_s", "bracket_high_s")
        return [
            {
                "file": file.file,
                **{name: getattr(row, name) for name in (*names, *memory)},
                "group": "/".join(row.group),
                "approximated": ", ".join(row.approximated),
            }
            for file in self.files
            for row in file.rows
        ]

    def tables(self) -> dict[str, list[Row]]:
        """The figures of each file, those by GPU and family, and every row."""
        families = [{"file": file.file, **family.to_dict()} for file in self.files for family in file.families]
        figures = [{k: v for k, v in file.to_dict().items() if k != "families"} for file in self.files]
        return {"figures": figures, "families": families, "rows": self.rows()}
