"""Projected over measured times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtrain_sim.errors import UserError
from vtrain_sim.report.plots.drawing import pictures
from vtrain_sim.report.plots.figure import new_figure
from vtrain_sim.validate.result import ValidationResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@pictures.register(ValidationResult)
def draw_validation(result: ValidationResult) -> Figure:
    """Projected over measured seconds, one colour per file, with the diagonal and lines at 10% from it."""
    by_file = {file.file: [r.pair for r in file.rows if r.pair] for file in result.files}
    points = {name: pairs for name, pairs in by_file.items() if pairs}
    if not points:
        raise UserError("there is nothing to draw: no row could be simulated")
    figure = new_figure()
    axes = figure.subplots()
    everything = [value for pairs in points.values() for pair in pairs for value in pair]
    low, high = min(everything) * 0.8, max(everything) * 1.25
    axes.plot([low, high], [low, high], color="black", linewidth=1)
    for factor in (0.9, 1.1):
        axes.plot([low, high], [low * factor, high * factor], color="grey", linewidth=0.8, linestyle="--")
    for name, pairs in points.items():
        measured, projected = zip(*pairs, strict=True)
        axes.scatter(measured, projected, s=16, alpha=0.7, label=f"{name} ({len(pairs)})")
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(low, high),
        ylim=(low, high),
        aspect="equal",
        xlabel="measured iteration time (s)",
        ylabel="projected iteration time (s)",
    )
    axes.legend(fontsize=8, title="dashed: 10% off")
    return figure
