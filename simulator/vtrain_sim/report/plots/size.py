"""Days against parameters of the sizes of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtrain_sim.decide.sizing import SizeResult
from vtrain_sim.report.plots.drawing import pictures
from vtrain_sim.report.plots.figure import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@pictures.register(SizeResult)
def draw_sizes(result: SizeResult) -> Figure:
    """Days of the best plan against parameters, and what the devices' peak would promise."""
    figure = new_figure(7.5, 5.0)
    axes = figure.subplots()
    planned = [c for c in result.candidates if c.plan is not None]
    axes.scatter([c.parameters / 1e9 for c in planned], [c.days for c in planned], s=18, label="best plan (modelled)")
    axes.plot(
        [c.parameters / 1e9 for c in result.candidates],
        [c.naive_days for c in result.candidates],
        color="grey",
        linestyle="--",
        label="at 100% MFU",
    )
    axes.axhline(result.days, color="black", linewidth=0.8)
    chosen = result.chosen
    axes.annotate(
        f"{chosen.parameters / 1e9:.1f}B",
        (chosen.parameters / 1e9, chosen.days),
        xytext=(8, -14),
        textcoords="offset points",
    )
    axes.set(xlabel="parameters (billions)", ylabel="days", ylim=(0, 3 * result.days))
    axes.legend()
    return figure
