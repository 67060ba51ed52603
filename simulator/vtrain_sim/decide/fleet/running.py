"""Jobs that have arrived and not ended, and the cluster that they share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.decide.fleet.jobs import Job
from vtrain_sim.decide.fleet.speeds import SpeedTable


@dataclass
class Running:
    """A job that has arrived and not ended.

    gpus: now; requested: those of its trace that it can use. place: where its table begins in those of the `Site`.
    resume_s: when it trains again after its last change of GPUs. steps_s, steps: what is reserved for it, up to its
    end: until when (seconds), and the place of its GPUs until then (-1: none); empty for a job without a deadline.
    """

    job: Job
    table: SpeedTable
    remaining: float
    requested: int
    place: int = 0
    gpus: int = 0
    resume_s: float = 0.0
    started: bool = False
    index: dict[int, float] = field(default_factory=dict)
    steps_s: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def seconds(self, gpus: int) -> float:
        """Seconds of an iteration on so many GPUs."""
        return self.index[gpus]


Allocation: TypeAlias = list[tuple[Running, int]]  # jobs and their GPUs; all others have none


class Site:
    """The cluster: its GPUs, and the seconds from a change of a job's GPUs until the job trains again.

    gpus, seconds: the tables of all jobs seen, one after the other, ascending within each.
    """

    def __init__(self, capacity: int, restart_s: float) -> None:
        self.capacity, self.restart_s = capacity, restart_s
        self.gpus: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.seconds: NDArray[np.float64] = np.zeros(0)
        self._places: dict[SpeedTable, int] = {}

    def place(self, table: SpeedTable) -> int:
        """Where a table begins in ``gpus`` and ``seconds``."""
        if table not in self._places:
            self._places[table] = len(self.gpus)
            self.gpus = np.append(self.gpus, np.array(table.gpus, dtype=np.int64))
            self.seconds = np.append(self.seconds, np.array(table.seconds))
        return self._places[table]
