"""Jobs that have arrived and not ended, and the cluster that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.decide.fleet.jobs import Job
from vtrain_sim.decide.fleet.placement import Gang
from vtrain_sim.decide.fleet.speeds import SpeedTable

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Booleans: TypeAlias = NDArray[np.bool_]
# A change of GPUs that no deadline asks for must save this many times the pause that it costs.
WORTH = 2.0


@dataclass
class Running:
    """A job that has arrived and not ended.

    gpus: now; requested: those of its trace that it can use. place: where its table begins in those of the `Site`.
    pace: seconds of an iteration where it runs now. resume_s: when it trains again after its last change of GPUs.
    served: GPU-seconds that it has had. last_s: when it last had GPUs (at first: its arrival). restarts: how often it
    went on after a stop. failed: it lost its GPUs to a failure. gang: where they are, if jobs are placed. steps_s,
    steps: what is reserved for it, up to its end: until when (seconds), and the place of its GPUs until then (-1:
    none); empty for a job without a deadline.
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
    pace: float = 0.0
    served: float = 0.0
    last_s: float = 0.0
    restarts: int = 0
    failed: bool = False
    gang: Gang | None = None

    def seconds(self, gpus: int) -> float:
        """Seconds of an iteration on so many GPUs, in as few nodes as hold them."""
        return self.index[gpus]


Allocation: TypeAlias = list[tuple[Running, int]]  # jobs and their GPUs; all others have none


class Site:
    """The cluster as policies see it.

    capacity: GPUs that work now. quotas: GPUs that are a tenant's own, by tenant; empty: all are everybody's.
    gpus, seconds, pause: the tables of all jobs seen, one after the other, ascending within each: numbers of GPUs,
    seconds of an iteration, and seconds from a stop until the job trains again on so many. charges: GPUs that a policy
    which gives whole nodes counts for them.
    """

    def __init__(self, capacity: int, restart_s: float, quotas: Mapping[str, int] | None = None) -> None:
        self.capacity, self.restart_s = capacity, restart_s
        self.quotas = dict(quotas or {})
        self.gpus: Ints = np.zeros(0, dtype=np.int64)
        self.charges: Ints = np.zeros(0, dtype=np.int64)
        self.seconds: Floats = np.zeros(0)
        self.pause: Floats = np.zeros(0)
        self._places: dict[tuple[SpeedTable, tuple[float, ...]], int] = {}

    def place(self, table: SpeedTable, pauses: Sequence[float] = (), unit: int = 1) -> int:
        """Where a table begins in ``gpus``. pauses: by its numbers of GPUs, if not ``restart_s`` each. unit: GPUs are
        counted in multiples of it."""
        key = table, tuple(pauses)
        if key not in self._places:
            self._places[key] = len(self.gpus)
            counts = np.array(table.gpus, dtype=np.int64)
            self.gpus = np.append(self.gpus, counts)
            self.charges = np.append(self.charges, -(-counts // unit) * unit)
            self.seconds = np.append(self.seconds, np.array(table.seconds))
            self.pause = np.append(self.pause, np.array(pauses or [self.restart_s] * len(counts)))
        return self._places[key]
