"""A sweep: one bar or point per combination."""

from __future__ import annotations

from vtrain_sim.decide.sweep import SweepResult
from vtrain_sim.report.page.document import pages
from vtrain_sim.report.page.model import Chart, Figure, Page, Section
from vtrain_sim.report.shared_words import point_name
from vtrain_sim.report.tables import duration
from vtrain_sim.results import Row

# More bars than these are better points.
_MOST_BARS = 60


@pages.register(SweepResult)
def page_of_sweep(result: SweepResult) -> Page:
    """The iteration time of each point; those that do not fit are grey."""
    rows: list[Row] = [{"point": point_name(p), **p.to_dict()} for p in result.points]
    fit = sum(bool(p.fits) for p in result.points)
    refused = sum(p.iteration_time_s is None for p in result.points)
    figures = [Figure("Points", str(len(rows)), f"{fit} fit in memory, {refused} refused")]
    fastest = result.fastest
    if fastest is not None and fastest.iteration_time_s is not None:
        figures.append(
            Figure("Fastest that fits", duration(fastest.iteration_time_s), f"{point_name(fastest)}; modelled")
        )
    lead = f"{len(rows)} combinations, of which {fit} fit in memory (grey: does not fit); a refused one says why."
    section = Section("Combinations", lead, rows, _chart(rows), "modelled where the machine is bundled data")
    return Page("sweep", f"Sweep on {result.cluster}", "", tuple(figures), (section,))


def _chart(rows: list[Row]) -> Chart:
    hover = ["iteration_time_s", "mfu", "tokens_per_s_per_gpu", "peak_bytes", "fits", "num_gpus"]
    if len(rows) > _MOST_BARS:
        fit = [place for place, row in enumerate(rows) if row["fits"]]
        rest = [place for place, row in enumerate(rows) if row["fits"] is False]
        return {
            "draw": "points",
            "across": ["peak_bytes", "num_gpus"],
            "up": ["iteration_time_s", "mfu"],
            "series": [
                {"name": "fits", "places": fit, "style": "strong"},
                {"name": "does not fit", "places": rest, "style": "faint"},
            ],
            "hover": ["point", *hover],
        }
    tones = {str(row["point"]): "forward" if row["fits"] else "idle" for row in rows}
    return {
        "draw": "bars",
        "category": "point",
        "values": ["iteration_time_s"],
        "tones": tones,
        "lying": True,
        "hover": hover,
    }
