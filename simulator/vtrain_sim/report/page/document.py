"""The content of a page as strict JSON, for its scripts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import vtrain_sim
from vtrain_sim.report.dispatch import ByType, simulated
from vtrain_sim.report.page.columns import table
from vtrain_sim.report.page.model import Page, Report, Section
from vtrain_sim.results import Document, Result

_HERE = "vtrain_sim.report.page.parts."
# What a page shows of each type of result.
pages: ByType[Callable[[Any], Page]] = ByType(
    {
        **simulated(_HERE),
        "vtrain_sim.catalog.results.RunDetail": _HERE + "captured",
        "vtrain_sim.catalog.results.RunProfile": _HERE + "captured",
        "vtrain_sim.calibration.result.CalibrationResult": _HERE + "calibration",
        "vtrain_sim.results.Result": _HERE + "other",
    }
)


def content(result: Result) -> Page:
    """What the page of a result, or of a report, shows."""
    function = pages.find(result.main if isinstance(result, Report) else result)
    assert function is not None, "every class of results is a Result"
    page = function(result.main if isinstance(result, Report) else result)
    if isinstance(result, Report):
        page = page.followed_by(*(section for other in result.others for section in content(other).sections))
    return page


def document(result: Result) -> Document:
    """The content of a page as the scripts read it."""
    page = content(result)
    return {
        "kind": page.kind,
        "title": page.title,
        "subtitle": page.subtitle,
        "version": vtrain_sim.__version__,
        "command": result.command if isinstance(result, Report) else "",
        "texts": [list(text) for text in page.texts],
        "figures": [asdict(figure) for figure in page.figures],
        "notes": list(page.notes),
        "sections": [_section(section) for section in (*page.sections, *page.appendix)],
    }


def _section(section: Section) -> Document:
    return {
        "title": section.title,
        "lead": section.lead,
        "provenance": section.provenance,
        "chart": dict(section.chart) if section.chart else None,
        "folded": section.folded,
        "table": table(section.rows, section.titles),
    }


def json_text(value: Document) -> str:
    """Strict JSON that may stand inside a script element: no text of it ends one or begins a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
