"""Which job runs when, under each policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtrain_sim.decide.fleet import FleetResult
from vtrain_sim.decide.fleet import policies as cluster_policies
from vtrain_sim.report.plots.drawing import pictures
from vtrain_sim.report.plots.figure import new_figure
from vtrain_sim.report.stacking import blocks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@pictures.register(FleetResult)
def draw_fleet(result: FleetResult) -> Figure:
    """A panel per policy (last trace): each job's stretches, as high as its GPUs, on its nodes or stacked as they are
    handed out; nodes out of service are black."""
    outcomes = {name: traces[-1] for name, traces in result.outcomes.items()}
    figure = new_figure(9.0, 2.0 + 2.0 * len(outcomes))
    panels = figure.subplots(len(outcomes), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, outcome) in zip(panels, outcomes.items(), strict=True):
        order = {job.job_id: index for index, job in enumerate(outcome.jobs)}
        for stretch, floor, gpus in blocks(outcome):
            colour = f"C{order[stretch.job_id] % 10}"
            hours = (stretch.start_s / 3600, (stretch.end_s - stretch.start_s) / 3600)
            axes.broken_barh([hours], (floor, gpus), facecolors=colour, edgecolor="white", linewidth=0.3)
        for node, since, until in outcome.hardware.outages if outcome.hardware else ():
            hours = (since / 3600, (until - since) / 3600)
            axes.broken_barh([hours], (node * outcome.size, outcome.size), facecolors="black")
        axes.set(ylabel="GPUs", ylim=(0, outcome.capacity), title=f"{name}: {cluster_policies.get(name).says}")
    panels[-1].set_xlabel("hours")
    return figure
