"""A calibration: what was fitted, how well, and the measurements beside it."""

from __future__ import annotations

from vtrain_sim.calibration.result import CalibrationResult
from vtrain_sim.report.page.document import pages
from vtrain_sim.report.page.model import Figure, Page, Section
from vtrain_sim.report.page.parts.bandwidth import bandwidth_section
from vtrain_sim.results import Row

_LEAD = "Bus bandwidth by payload: measured points, and the fitted network's lines."


@pages.register(CalibrationResult)
def page_of_calibration(result: CalibrationResult) -> Page:
    """The fits, and the sections of the preset."""
    fits: list[Row] = [{"fit": line} for line in result.report]
    sections = (
        *([bandwidth_section(result.collectives, _LEAD)] if result.collectives else []),
        Section("Fits", "Measurements that each fit uses, and its mean error.", fits),
    )
    texts = (("Sections of a preset", result.toml),)
    sections_named = str(result.summary()["sections"])
    return Page("calibration", "Calibration", sections_named, (Figure("Fits", str(len(fits))),), sections, texts=texts)
