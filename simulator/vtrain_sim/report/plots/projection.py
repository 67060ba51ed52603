"""Where the time of a projected step goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtrain_sim.report.plots.drawing import pictures
from vtrain_sim.report.plots.figure import new_figure
from vtrain_sim.report.tables import counted, duration
from vtrain_sim.simulate.result import Projection

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@pictures.register(Projection)
def draw_projection(projection: Projection) -> Figure:
    """A bar per part of the bottleneck stage's step, longest first."""
    parts = sorted(projection.breakdown_s.items(), key=lambda part: part[1])
    figure = new_figure(7.5, 1.5 + 0.35 * len(parts))
    axes = figure.subplots()
    axes.barh([name for name, _ in parts], [seconds for _, seconds in parts])
    parallel = projection.configuration.parallel
    title = (
        f"{counted(parallel.world_size, 'GPUs')} of {projection.cluster.name}: {duration(projection.iteration_time_s)}"
    )
    axes.set(xlabel=f"seconds per step, bottleneck stage {projection.critical_stage}", title=title)
    return figure
