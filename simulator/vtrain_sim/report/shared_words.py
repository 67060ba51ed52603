"""Names and sentences that the terminal, pages and pictures share."""

from __future__ import annotations

from vtrain_sim.decide.sweep import SweepPoint
from vtrain_sim.report.tables import text
from vtrain_sim.results import Row
from vtrain_sim.validate.figures import FileResult


def unit_name(unit: Row) -> str:
    """A unit of a study, by its model, cluster and global batch."""
    return f"{unit['model']} on {unit['cluster']}, batch {unit['global_batch_size']}"


def point_name(point: SweepPoint) -> str:
    """A point of a sweep, by what was varied."""
    return ", ".join(f"{name} {text(value)}" for name, value in point.values.items())


def unread_columns(file: FileResult) -> str:
    """Which columns of a table of measured runs nothing reads."""
    return f"{file.file}: columns that are not read, as if they were not there: {', '.join(file.unread)}"
