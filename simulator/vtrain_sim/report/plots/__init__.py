"""Pictures of results. Needs matplotlib, which the extra "report" brings."""

from vtrain_sim.report.plots.drawing import draw, pictures
from vtrain_sim.report.plots.figure import check_name, save

__all__ = ["check_name", "draw", "pictures", "save"]
