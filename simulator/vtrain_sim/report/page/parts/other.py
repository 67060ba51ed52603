"""Any result: its figures, and its tables."""

from __future__ import annotations

from vtrain_sim.report.page.document import pages
from vtrain_sim.report.page.model import Figure, Page, Section
from vtrain_sim.report.tables import text
from vtrain_sim.results import Result, Table


@pages.register(Result)  # type: ignore[type-abstract]
def page_of_any(result: Result) -> Page:
    """The card and the tables."""
    figures = tuple(Figure(name.replace("_", " "), text(value)) for name, value in result.summary().items())
    sections = tuple(Section(title or "rows", "", rows) for title, rows in result.tables().items() if rows)
    return Page("result", type(result).__name__, figures=figures, sections=sections)


@pages.register(Table)
def page_of_table(result: Table) -> Page:
    """The rows alone."""
    return Page("table", result.name, sections=(Section(result.name, "", result.rows()),))
