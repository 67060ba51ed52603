"""Projections beside measured iteration times."""

from __future__ import annotations

from vtrain_sim.report.page.document import pages
from vtrain_sim.report.page.model import Figure, Page, Section
from vtrain_sim.report.shared_words import unread_columns
from vtrain_sim.report.tables import percent
from vtrain_sim.results import Row
from vtrain_sim.simulate.result import BAND_PROBABILITY
from vtrain_sim.validate.figures import coverage
from vtrain_sim.validate.result import ValidationResult

_SOURCE = "measured: from the tables; projected: modelled"


@pages.register(ValidationResult)
def page_of_validation(result: ValidationResult) -> Page:
    """Measured against projected, the figures of each file, and every row."""
    summary = result.summary()
    rows = result.rows()
    covered = coverage([row for file in result.files for row in file.rows])
    mape = summary["mape"]
    figures = [
        Figure("Rows", f"{summary['rows']}", f"{summary['simulated']} simulated, of {summary['files']} files"),
        Figure("Mean absolute error", percent(mape) or "-", "of the iteration time, all rows together"),  # type: ignore[arg-type]
    ]
    if covered is not None:
        figures.append(Figure("Inside the band", f"{covered:.0%}", f"of the rows; {BAND_PROBABILITY:.0%} is meant"))
    tables = result.tables()
    sections = [
        _scatter(rows, result),
        Section("Figures of each file", "Errors are of the iteration time.", tables["figures"]),
    ]
    if tables["families"]:
        sections.append(_families(tables["families"]))
    return Page("validation", "Projected against measured", "", tuple(figures), tuple(sections), _notes(result))


def _scatter(rows: list[Row], result: ValidationResult) -> Section:
    series = [
        {
            "name": file.file,
            "places": [
                place for place, row in enumerate(rows) if row["file"] == file.file and row["predicted_s"] is not None
            ],
            "style": "dots",
        }
        for file in result.files
    ]
    chart = {
        "draw": "points",
        "across": ["measured_s"],
        "up": ["predicted_s", "error"],
        "series": series,
        "logarithmic": ["measured_s", "predicted_s"],
        "diagonal": ["measured_s", "predicted_s"],
        "band": {"up": "predicted_s", "low": "low_s", "high": "high_s"},
        "hover": ["id", "file", "measured_s", "predicted_s", "low_s", "high_s", "error", "group"],
    }
    lead = (
        "A point is a measured configuration, with the band of its projection; on the diagonal the projection is the "
        "measurement. Both axes are logarithmic."
    )
    return Section("Every row", lead, rows, chart, _SOURCE)


def _families(rows: list[Row]) -> Section:
    named: list[Row] = [{"rows of": f"{row['gpu']}, {row['family']}, {row['file']}", **row} for row in rows]
    chart = {
        "draw": "bars",
        "category": "rows of",
        "values": ["mape", "bias", "coverage"],
        "choose": True,
        "lying": True,
    }
    return Section("By GPU and family", "Errors by GPU and kind of model.", named, chart, _SOURCE, folded=True)


def _notes(result: ValidationResult) -> tuple[str, ...]:
    return tuple(unread_columns(file) for file in result.files if file.unread)
