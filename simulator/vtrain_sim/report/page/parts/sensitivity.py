"""What one change at a time would bring: a bar for each change, and what binds the step in words."""

from __future__ import annotations

from vtrain_sim.decide.sensitivity import Sensitivity
from vtrain_sim.report.page.document import pages
from vtrain_sim.report.page.model import Page, Section
from vtrain_sim.report.page.parts.projection import (
    breakdown_section,
    described,
    figures_of,
    flags_of,
    memory_section,
    provenance_of,
)
from vtrain_sim.report.tables import as_sentence
from vtrain_sim.results import Row

_COLUMNS = ("name", "of", "step_s", "change_s", "change", "peak_bytes", "change_bytes", "fits")


@pages.register(Sensitivity)
def page_of_sensitivity(sensitivity: Sensitivity) -> Page:
    """The configuration, what binds it, the changes, and where its time and memory go."""
    projection = sensitivity.projection
    configuration = projection.configuration
    rows: list[Row] = [
        {name: row[name] for name in _COLUMNS} for row in sensitivity.rows() if row["step_s"] is not None
    ]
    refused = [{"name": row["name"], "reason": row["reason"]} for row in sensitivity.rows() if row["step_s"] is None]
    chart = {
        "draw": "bars",
        "category": "name",
        "values": ["step_s"],
        "tones": {str(row["name"]): "forward" if row["fits"] else "idle" for row in rows},
        "lying": True,
        "hover": ["change_s", "change", "peak_bytes", "fits"],
    }
    lead = "The step with each change alone, the shortest first (grey: does not fit in memory)."
    sections = [Section("One change at a time", lead, rows, chart, provenance_of(projection))]
    if refused:
        sections.append(Section("Changes that cannot be made", "", refused))
    return Page(
        "explanation",
        f"What binds {configuration.model.name or 'the model'} on {projection.cluster.name}",
        described(projection),
        figures_of(projection),
        (*sections, breakdown_section(projection), memory_section(projection)),
        tuple(map(as_sentence, sensitivity.sentences)),
        texts=flags_of(projection),
    )
