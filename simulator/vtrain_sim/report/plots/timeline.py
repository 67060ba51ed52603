"""The passes of a timeline, stage under stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtrain_sim.errors import UserError
from vtrain_sim.report.plots.drawing import pictures
from vtrain_sim.report.plots.figure import new_figure
from vtrain_sim.simulate.spans import PASSES, Timeline, TimelineSpan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {"forward": "tab:blue", "backward": "tab:green", "weight gradients": "tab:olive"}
_OTHER = "tab:gray"
# A stage's row, and what communicates in it, in parts of the row's height.
_ROW, _BELOW = 0.6, 0.22


@pictures.register(Timeline)
def draw_timeline(timeline: Timeline) -> Figure:
    """A row per stage: its passes, lighter for later chunks, and in a thin row below what its replicas exchange."""
    passes = [span for span in timeline.spans if span.track == PASSES]
    if not passes:
        raise UserError("there is nothing to draw: the timeline has no passes, ask for some stages and microbatches")
    stages = sorted({span.stage for span in passes})
    row = {stage: number for number, stage in enumerate(stages)}
    figure = new_figure(10.0, 1.8 + 0.35 * len(stages))
    axes = figure.subplots()
    for name in dict.fromkeys(span.name for span in passes):
        named = [span for span in passes if span.name == name]
        for chunk in dict.fromkeys(span.chunk or 0 for span in named):
            spans = [span for span in named if (span.chunk or 0) == chunk]
            _bars(axes, spans, row, 0.0, _ROW, _COLOURS.get(name, _OTHER), 1.0 / (1 + 0.5 * chunk), name, chunk == 0)
    exchanges = [span for span in timeline.spans if span.track == "dp" and span.stage in row]
    if exchanges:
        _bars(axes, exchanges, row, _ROW, _BELOW, "tab:red", 1.0, "data parallel exchange", True)
    axes.set_yticks([row[stage] + _ROW / 2 for stage in stages], [str(stage) for stage in stages])
    axes.invert_yaxis()
    axes.set(xlabel="seconds from the beginning of the step", ylabel="pipeline stage")
    axes.set_xlim(0.0, timeline.iteration_time_s)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def _bars(
    axes: Axes,
    spans: list[TimelineSpan],
    row: dict[int, int],
    offset: float,
    height: float,
    colour: str,
    alpha: float,
    label: str,
    labelled: bool,
) -> None:
    """Bars of one colour, `offset` below the top of their stage's row."""
    for stage in row:
        times = [(span.start_s, span.end_s - span.start_s) for span in spans if span.stage == stage]
        if times:
            axes.broken_barh(
                times,
                (row[stage] + offset, height),
                facecolors=colour,
                alpha=alpha,
                edgecolor="white",
                linewidth=0.3,
                label=label if labelled else None,
            )
            labelled = False
