"""What one change at a time would bring, as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtrain_sim.decide.sensitivity import MACHINE, Effect, Sensitivity
from vtrain_sim.report.plots.drawing import pictures
from vtrain_sim.report.plots.figure import new_figure
from vtrain_sim.report.tables import duration, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@pictures.register(Sensitivity)
def draw_sensitivity(sensitivity: Sensitivity) -> Figure:
    """A bar per change, to the left where the step is shorter; paler and hatched where it does not fit."""
    effects = [effect for effect in sensitivity.effects if effect.change is not None]
    figure = new_figure(8.0, 1.5 + 0.32 * len(effects))
    axes = figure.subplots()
    for row, effect in enumerate(effects):
        change = 100 * (effect.change or 0.0)
        fits = effect.fits is not False
        axes.barh(row, change, color=_colour(effect), alpha=1.0 if fits else 0.4, hatch="" if fits else "//")
        label = f" {percent(effect.change, sign=True)} " + ("" if fits else "(does not fit) ")
        axes.text(change, row, label, va="center", ha="right" if change < 0 else "left", fontsize=8)
    axes.set_yticks(range(len(effects)), [effect.name for effect in effects])
    axes.invert_yaxis()
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.margins(x=0.2)
    for colour, label in (("tab:blue", "configuration"), ("tab:gray", "machine")):
        axes.barh(0, 0, color=colour, label=label)
    axes.legend(fontsize=8)
    step = duration(sensitivity.projection.iteration_time_s)
    axes.set(xlabel="change of the step, %", title=f"one change at a time, step {step}")
    return figure


def _colour(effect: Effect) -> str:
    return "tab:gray" if effect.of == MACHINE else "tab:blue"
