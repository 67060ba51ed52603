"""Stretches of jobs as blocks of a picture: where they were placed, or stacked."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vtrain_sim.decide.fleet import Outcome, Stretch


class Block(NamedTuple):
    """Neighbouring GPUs of one stretch: the lowest one's number, and how many they are."""

    stretch: Stretch
    floor: int
    gpus: int


def blocks(outcome: Outcome) -> list[Block]:
    """The GPUs of each stretch: those of its nodes, one after the other, where jobs are placed; else stacked."""
    if outcome.hardware is None:
        return [Block(stretch, floor, stretch.gpus) for stretch, floor in _stacked(outcome)]
    return [Block(s, floor, gpus) for s in outcome.stretches for floor, gpus in _runs(s, outcome.size)]


def _runs(stretch: Stretch, size: int) -> list[tuple[int, int]]:
    """Runs of neighbouring GPUs: the first, and how many."""
    nodes = sorted(stretch.gang.nodes) if stretch.gang else []
    runs: list[tuple[int, int]] = []
    for node, mask in nodes:
        for slot in range(mask.bit_length()):
            gpu = node * size + slot
            if not mask >> slot & 1:
                continue
            if runs and sum(runs[-1]) == gpu:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((gpu, 1))
    return runs


def _stacked(outcome: Outcome) -> list[tuple[Stretch, int]]:
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
