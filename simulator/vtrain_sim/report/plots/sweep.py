"""The points of a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtrain_sim.decide.sweep import SweepResult
from vtrain_sim.errors import UserError
from vtrain_sim.report.plots.drawing import pictures
from vtrain_sim.report.plots.figure import new_figure
from vtrain_sim.report.shared_words import point_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@pictures.register(SweepResult)
def draw_sweep(result: SweepResult) -> Figure:
    """A bar per point that could be projected; those that do not fit in memory are hatched."""
    points = [(p, p.iteration_time_s) for p in result.points if p.iteration_time_s is not None]
    if not points:
        raise UserError("there is nothing to draw: every point of the sweep was refused")
    figure = new_figure(7.5, 1.5 + 0.3 * len(points))
    axes = figure.subplots()
    names = [point_name(p) for p, _ in points]
    bars = axes.barh(range(len(points)), [seconds for _, seconds in points], tick_label=names)
    for bar, (point, _) in zip(bars, points, strict=True):
        if not point.fits:
            bar.set(hatch="//", alpha=0.4)
    axes.invert_yaxis()
    axes.set(xlabel="iteration time (s); hatched: does not fit in memory", title=result.cluster)
    return figure
