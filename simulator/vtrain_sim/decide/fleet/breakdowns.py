"""Nodes that fail and are repaired, at random times that are the same for a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vtrain_sim.specs.checks import Range

_MTBF, _REPAIR = Range(1e-3, 1e12), Range(1e-3, 1e6)


@dataclass(frozen=True)
class Breakdowns:
    """How often nodes fail, and how long they are out.

    gpu_mtbf_hours: mean time between failures of one GPU, with its share of the node and network. repair_hours: until
    the node is back. seed: of the times.
    """

    gpu_mtbf_hours: float
    repair_hours: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        _MTBF.check("--gpu-mtbf-hours", self.gpu_mtbf_hours)
        _REPAIR.check("--repair-hours", self.repair_hours)


class Repairs:
    """Failures and repairs of a cluster's nodes, one after the other.

    Each GPU fails as a Poisson process, and takes its node with it; what happens to a node that is out is not counted.
    """

    def __init__(self, breakdowns: Breakdowns, node_gpus: np.ndarray) -> None:
        self._random = np.random.default_rng([breakdowns.seed, 0x6661696C])
        self._repair_s = breakdowns.repair_hours * 3600
        self._gap_s = breakdowns.gpu_mtbf_hours * 3600 / float(node_gpus.sum())
        self._ends = np.cumsum(node_gpus)
        self._down: list[tuple[float, int]] = []
        self._failing = (0.0, -1)
        self._draw()

    @property
    def next_s(self) -> float:
        """When the next node fails or is back."""
        return min(self._failing[0], self._down[0][0] if self._down else math.inf)

    def happen(self) -> tuple[int, bool]:
        """What happens at `next_s`: a node, and whether it fails (else it is back)."""
        if self._down and self._down[0][0] <= self._failing[0]:
            return self._down.pop(0)[1], False
        time, node = self._failing
        self._down.append((time + self._repair_s, node))
        self._draw()
        return node, True

    def _draw(self) -> None:
        """The next failure of a node that is not out when it comes."""
        time = self._failing[0]
        while True:
            time += float(self._random.exponential(self._gap_s))
            node = int(np.searchsorted(self._ends, self._random.integers(self._ends[-1]), side="right"))
            back = next((end for end, n in self._down if n == node), -math.inf)
            if back <= time:
                break
        self._failing = (time, node)
