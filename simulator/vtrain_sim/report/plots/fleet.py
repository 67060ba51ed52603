"""Which job runs when, under each policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vtrain_sim.decide.fleet import POLICIES, FleetResult, Outcome, Stretch
from vtrain_sim.report.plots.drawing import pictures
from vtrain_sim.report.plots.figure import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@pictures.register(FleetResult)
def draw_fleet(result: FleetResult) -> Figure:
    """A panel per policy (last trace): each job's stretches, as high as its GPUs, stacked as they are handed out."""
    outcomes = {name: traces[-1] for name, traces in result.outcomes.items()}
    figure = new_figure(9.0, 2.0 + 2.0 * len(outcomes))
    panels = figure.subplots(len(outcomes), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, outcome) in zip(panels, outcomes.items(), strict=True):
        order = {job.job_id: index for index, job in enumerate(outcome.jobs)}
        for stretch, floor in _stacked(outcome):
            colour = f"C{order[stretch.job_id] % 10}"
            hours = (stretch.start_s / 3600, (stretch.end_s - stretch.start_s) / 3600)
            axes.broken_barh([hours], (floor, stretch.gpus), facecolors=colour, edgecolor="white", linewidth=0.3)
        axes.set(ylabel="GPUs", ylim=(0, outcome.capacity), title=f"{name}: {POLICIES[name].says}")
    panels[-1].set_xlabel("hours")
    return figure


def _stacked(outcome: Outcome) -> list[tuple[Stretch, int]]:
    """Each stretch with the lowest GPU number from which as many are free for all of its time, else the
    pieces that are: a picture of numbers of GPUs, not of a placement."""
    free_at = np.zeros(outcome.capacity)
    stacked = []
    for stretch in outcome.stretches:
        free = np.flatnonzero(free_at <= stretch.start_s + 1e-6)
        runs = np.split(free, np.flatnonzero(np.diff(free) != 1) + 1)
        floor = next((int(r[0]) for r in runs if len(r) >= stretch.gpus), None)
        if floor is None:
            floor = int(free[0]) if len(free) else 0
        free_at[floor : floor + stretch.gpus] = stretch.end_s
        stacked.append((stretch, floor))
    return stacked
