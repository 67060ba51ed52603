"""A captured step beside the simulated one."""

from __future__ import annotations

from dataclasses import fields

from vtrain_sim.report.page.document import pages
from vtrain_sim.report.page.model import Figure, Page, Section
from vtrain_sim.report.page.parts.projection import breakdown_section, memory_section, provenance_of
from vtrain_sim.report.tables import counted, duration, percent
from vtrain_sim.results import Row
from vtrain_sim.simulate.result import BAND_PROBABILITY
from vtrain_sim.validate.comparison import Comparison, OperatorRow


@pages.register(Comparison)
def page_of_comparison(comparison: Comparison) -> Page:
    """The step, its parts, its operators, and what the simulation says of time and memory."""
    projection = comparison.projection
    low, high = duration(projection.iteration_time_low_s), duration(projection.iteration_time_high_s)
    figures = (
        Figure("Captured step", duration(comparison.captured_step_s), "measured: median of the slowest rank's steps"),
        Figure(
            "Simulated step",
            duration(projection.iteration_time_s),
            f"{BAND_PROBABILITY:.0%} band {low} to {high}; {provenance_of(projection)}",
        ),
        Figure("Error", percent(comparison.error, sign=True) or "-", "simulated over captured, less one"),
        Figure("Captured", counted(comparison.steps, "steps"), f"on {counted(comparison.ranks, 'ranks')}"),
    )
    sections = (_parts(comparison), _operators(comparison), breakdown_section(projection), memory_section(projection))
    return Page(
        "validation",
        f"Run {comparison.run_id} and its simulation",
        f"{projection.configuration.model.name or 'the model'} on {projection.cluster.name}",
        figures,
        sections,
        comparison.remarks,
    )


def _parts(comparison: Comparison) -> Section:
    rows: list[Row] = [{"what": f"{p.part} {p.direction}".strip(), **vars(p)} for p in comparison.parts]
    chart = {
        "draw": "bars",
        "category": "what",
        "values": ["captured_s", "simulated_s"],
        "tones": {"captured_s": "measured", "simulated_s": "projected"},
        "lying": True,
    }
    lead = "Seconds of a step on a rank that holds the part: two bars each, captured and simulated."
    return Section("Part by part", lead, rows, chart, "captured: measured; simulated: modelled", folded=True)


def _operators(comparison: Comparison) -> Section:
    rows = [_operator(row) for row in comparison.operators]
    both = [place for place, row in enumerate(rows) if row["captured_s"] and row["simulated_s"]]
    chart = {
        "draw": "points",
        "across": ["captured_s"],
        "up": ["simulated_s", "error"],
        "series": [
            {"name": name, "places": [place for place in both if rows[place]["provenance"] == name], "style": "dots"}
            for name in dict.fromkeys(str(rows[place]["provenance"]) for place in both)
        ],
        "logarithmic": ["captured_s", "simulated_s"],
        "diagonal": ["captured_s", "simulated_s"],
        "hover": ["operator", "shape", "captured_s", "simulated_s", "error", "captured_calls"],
    }
    lead = "Mean time of one call of each operator at each shape, by where the simulated time is from."
    return Section(
        "Operator by operator", lead, rows, chart if both else None, "captured: measured; simulated: as listed"
    )


def _operator(row: OperatorRow) -> Row:
    operator = row.operator
    sizes = [f.name for f in fields(operator) if isinstance(getattr(operator, f.name), int)]
    shape = ", ".join(f"{name} {getattr(operator, name)}" for name in sizes if int(getattr(operator, name)) > 1)
    error = row.simulated_s / row.captured_s - 1 if row.captured_s and row.simulated_s else None
    rest = {name: value for name, value in vars(row).items() if name != "operator"}
    return {"operator": f"{operator.kind}/{operator.phase}", "shape": shape, **rest, "error": error}
