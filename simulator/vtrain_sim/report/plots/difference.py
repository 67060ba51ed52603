"""The difference between two steps as a waterfall."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtrain_sim.report.plots.drawing import pictures
from vtrain_sim.report.plots.figure import new_figure
from vtrain_sim.report.tables import duration, signed
from vtrain_sim.validate.difference import Difference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STEP, _SHORTER, _LONGER = "tab:gray", "tab:blue", "tab:orange"
# Free space beside the bars, as part of what they span.
_MARGIN = 0.25


@pictures.register(Difference)
def draw_difference(difference: Difference) -> Figure:
    """From A's step at the top to B's at the bottom: each bar begins where the one above it ends."""
    a_s, b_s = difference.a.step_s, difference.b.step_s
    bars = [(difference.name_a, 0.0, a_s, _STEP, duration(a_s))]
    at = a_s
    for cause in difference.shown:
        change = cause.difference_s
        bars.append((cause.name, at, change, _SHORTER if change < 0 else _LONGER, signed(change, duration)))
        at += change
    bars.append((difference.name_b, 0.0, b_s, _STEP, duration(b_s)))
    figure = new_figure(8.0, 1.4 + 0.36 * len(bars))
    axes = figure.subplots()
    for row, (_, begin, width, colour, label) in enumerate(bars):
        axes.barh(row, width, left=begin, color=colour)
        axes.text(max(begin, begin + width), row, f" {label}", va="center", fontsize=8)
        if 0 < row < len(bars) - 1:
            axes.plot([begin, begin], [row - 1.4, row + 0.4], color="black", linewidth=0.5)
    axes.set_yticks(range(len(bars)), [_short(name) for name, *_ in bars])
    axes.invert_yaxis()
    # The steps are cut, so that the changes can be seen.
    ends = [begin for _, begin, *_ in bars[1:-1]] + [at, a_s, b_s]
    span = max(ends) - min(ends) or max(ends)
    axes.set_xlim(max(0.0, min(ends) - _MARGIN * span), max(ends) + _MARGIN * span)
    axes.set(xlabel="seconds per step" + ("" if min(ends) <= _MARGIN * span else " (the axis does not begin at 0)"))
    return figure


def _short(name: str) -> str:
    return name if len(name) <= 36 else name[:33] + "..."
