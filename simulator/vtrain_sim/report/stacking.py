"""Stretches of jobs stacked for a picture."""

from __future__ import annotations

import numpy as np

from vtrain_sim.decide.fleet import Outcome, Stretch


def stacked(outcome: Outcome) -> list[tuple[Stretch, int]]:
    """Each stretch with the lowest GPU number from which as many are free for all of its time, else with the lowest
    free one: a picture of numbers of GPUs, not of a placement."""
    free_at = np.zeros(outcome.capacity)
    placed = []
    for stretch in outcome.stretches:
        free = np.flatnonzero(free_at <= stretch.start_s + 1e-6)
        runs = np.split(free, np.flatnonzero(np.diff(free) != 1) + 1)
        floor = next((int(r[0]) for r in runs if len(r) >= stretch.gpus), None)
        if floor is None:
            floor = int(free[0]) if len(free) else 0
        free_at[floor : floor + stretch.gpus] = stretch.end_s
        placed.append((stretch, floor))
    return placed
