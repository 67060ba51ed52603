"""A captured step beside the simulated one, part by part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtrain_sim.report.plots.drawing import pictures
from vtrain_sim.report.plots.figure import new_figure
from vtrain_sim.validate.comparison import Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@pictures.register(Comparison)
def draw_comparison(comparison: Comparison) -> Figure:
    """Two bars per part and direction: captured and simulated seconds of a step."""
    parts = comparison.parts
    figure = new_figure(7.5, 2.0 + 0.4 * len(parts))
    axes = figure.subplots()
    places = range(len(parts))
    axes.barh([p - 0.2 for p in places], [p.captured_s or 0.0 for p in parts], height=0.4, label="captured (measured)")
    axes.barh([p + 0.2 for p in places], [p.simulated_s or 0.0 for p in parts], height=0.4, label="simulated")
    axes.set_yticks(list(places), [f"{p.part} {p.direction}".strip() for p in parts])
    axes.invert_yaxis()
    axes.set(xlabel="seconds per step", title=f"run {comparison.run_id}")
    axes.legend(fontsize=8)
    return figure
