"""Days against dollars of the plans of a search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtrain_sim.decide import PlanResult
from vtrain_sim.report.plots.drawing import pictures
from vtrain_sim.report.plots.figure import new_figure
from vtrain_sim.report.tables import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@pictures.register(PlanResult)
def draw_plans(result: PlanResult) -> Figure:
    """Days against dollars: the Pareto front, and the best plans."""
    figure = new_figure(7.5, 5.0)
    axes = figure.subplots()
    front = sorted((p.days, p.cost_usd, p.projection.configuration.parallel.world_size) for p in result.pareto)
    axes.plot([d for d, _, _ in front], [c for _, c, _ in front], marker="o", label="Pareto front")
    for days, dollars, gpus in front[:: max(1, len(front) // 12)]:
        axes.annotate(counted(gpus, "GPUs"), (days, dollars), textcoords="offset points", xytext=(4, 4), fontsize=7)
    axes.scatter(
        [p.days for p in result.plans],
        [p.cost_usd for p in result.plans],
        color="tab:orange",
        zorder=3,
        label=f"best by {result.request.rank_by}",
    )
    title = f"{result.request.model.name} on {result.cluster}"
    axes.set(xlabel="days (modelled)", ylabel="US dollars (modelled)", title=title)
    axes.legend(fontsize=8)
    return figure
