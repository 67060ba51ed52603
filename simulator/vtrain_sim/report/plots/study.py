"""The best plan of each unit of a study."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtrain_sim.decide.study.result import StudyResult
from vtrain_sim.errors import UserError
from vtrain_sim.report.plots.drawing import pictures
from vtrain_sim.report.plots.figure import new_figure
from vtrain_sim.report.shared_words import unit_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@pictures.register(StudyResult)
def draw_study(result: StudyResult) -> Figure:
    """A bar per unit that has a plan: the days of its best one."""
    rows = [row for row in result.rows() if row["days"] is not None]
    if not rows:
        raise UserError("there is nothing to draw: no unit of the study has a plan")
    figure = new_figure(7.5, 1.5 + 0.35 * len(rows))
    axes = figure.subplots()
    axes.barh(range(len(rows)), [row["days"] for row in rows], tick_label=[*map(unit_name, rows)])
    axes.invert_yaxis()
    axes.set(xlabel="days of the best plan (modelled)")
    return figure
