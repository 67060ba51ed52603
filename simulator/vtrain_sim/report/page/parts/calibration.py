"""A calibration: what was fitted, how well, and the measurements beside it."""

from __future__ import annotations

from vtrain_sim.calibration.result import CalibrationResult
from vtrain_sim.report.page.document import pages
from vtrain_sim.report.page.model import Figure, Page, Section
from vtrain_sim.results import Row


@pages.register(CalibrationResult)
def page_of_calibration(result: CalibrationResult) -> Page:
    """The fits, and the sections of the preset."""
    fits: list[Row] = [{"fit": line} for line in result.report]
    sections = (
        *_network(result),
        Section("Fits", "Measurements that each fit uses, and its mean error.", fits),
    )
    texts = (("Sections of a preset", result.toml),)
    sections_named = str(result.summary()["sections"])
    return Page("calibration", "Calibration", sections_named, (Figure("Fits", str(len(fits))),), sections, texts=texts)


def _network(result: CalibrationResult) -> list[Section]:
    """Measured and fitted bus bandwidth, where collectives were fitted."""
    rows = list(result.collectives)
    if not rows:
        return []
    names = list(dict.fromkeys((row["op"], row["ranks"], row["nodes"]) for row in rows))
    series = [
        {
            "name": f"{op}, {ranks} ranks" + (f" on {nodes} nodes" if nodes > 1 else ""),
            "places": [
                p for p, row in enumerate(rows) if (row["op"], row["ranks"], row["nodes"]) == (op, ranks, nodes)
            ],
            "style": "dots",
            "fit": "fitted_bytes_per_s",
        }
        for op, ranks, nodes in names
    ]
    chart = {
        "draw": "points",
        "across": ["bytes"],
        "up": ["bus_bytes_per_s", "transfer_s", "error"],
        "series": series,
        "logarithmic": ["bytes", "transfer_s"],
        "hover": ["op", "ranks", "nodes", "bytes", "transfer_s", "fitted_s", "error"],
    }
    lead = "Bus bandwidth by payload: measured points, and the fitted network's lines."
    return [Section("Collective bandwidth", lead, rows, chart, "points measured, lines fitted")]
