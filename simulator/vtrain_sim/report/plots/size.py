"""Days and dollars against parameters of the sizes of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtrain_sim.decide.sizing import SizeResult
from vtrain_sim.report.plots.drawing import pictures
from vtrain_sim.report.plots.figure import new_figure
from vtrain_sim.report.tables import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@pictures.register(SizeResult)
def draw_sizes(result: SizeResult) -> Figure:
    """Days of the best plans against parameters, and the frontier of parameters and dollars where a price is known."""
    if not result.chosen.cost_usd:
        figure = new_figure(7.5, 5.0)
        _draw_days(result, figure.subplots())
        return figure
    figure = new_figure(11.0, 5.0)
    days, dollars = figure.subplots(1, 2)
    _draw_days(result, days)
    _draw_dollars(result, dollars)
    return figure


def _draw_days(result: SizeResult, axes: Axes) -> None:
    """Days against parameters for each number of GPUs, and what the devices' peak would promise."""
    for count in result.gpu_counts:
        planned = [c for c in result.candidates if c.plan is not None and c.num_gpus == count]
        sizes = [c.parameters / 1e9 for c in planned]
        axes.scatter(sizes, [c.days for c in planned], s=18, label=f"best plan, {counted(count, 'GPUs')} (modelled)")
    most = [c for c in result.candidates if c.num_gpus == result.num_gpus]
    axes.plot(
        [c.parameters / 1e9 for c in most],
        [c.naive_days for c in most],
        color="grey",
        linestyle="--",
        label="at 100% MFU",
    )
    axes.axhline(result.days, color="black", linewidth=0.8)
    _mark(result, axes, result.chosen.days)
    axes.set(xlabel="parameters (billions)", ylabel="days", ylim=(0, 3 * result.days))
    axes.legend(fontsize=8)


def _draw_dollars(result: SizeResult, axes: Axes) -> None:
    """The frontier: dollars against parameters, its colours the days."""
    front = [c for c in result.frontier if c.days <= 3 * result.days]
    points = axes.scatter(
        [c.parameters / 1e9 for c in front],
        [c.cost_usd for c in front],
        c=[c.days for c in front],
        s=24,
        cmap="viridis",
    )
    axes.figure.colorbar(points, ax=axes, label="days (modelled)")
    _mark(result, axes, result.chosen.cost_usd)
    title = "no other is as large, as soon and as cheap"
    axes.set(xlabel="parameters (billions)", ylabel="US dollars (modelled)", title=title, ylim=(0, None))


def _mark(result: SizeResult, axes: Axes, height: float) -> None:
    size = result.chosen.parameters / 1e9
    axes.annotate(f"{size:.1f}B", (size, height), xytext=(8, -14), textcoords="offset points")
