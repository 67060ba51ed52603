"""Under which conditions jobs share a cluster: nodes, tenants, failures, and what a restart costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vtrain_sim.decide.failures import Failures
from vtrain_sim.decide.fleet.breakdowns import Breakdowns
from vtrain_sim.decide.fleet.checkpoints import Checkpoints
from vtrain_sim.decide.fleet.placement import Nodes, Placement
from vtrain_sim.decide.fleet.placement.fragments import Fragment
from vtrain_sim.decide.fleet.placement.gangs import CONSOLIDATED
from vtrain_sim.decide.fleet.speeds import Kind, SpeedTable
from vtrain_sim.errors import UserError

# Checkpoints take at least this long, for the best interval between them to be one.
_SHORTEST_S = 1e-3
# A job that failures and checkpoints make longer than this many times never ends.
_MOST_STRETCH = 50.0
# Nor does one whose GPUs are in service together for less than this part of the time.
_LEAST_THERE = 0.01


@dataclass(frozen=True)
class Conditions:
    """What is beside the jobs and the policy.

    placement: on which nodes gangs go; None: they are counted only, each as fast as on as few nodes as hold it.
    gpus_per_node, rack_gpus: GPUs of a node, and of those under one switch (0: no such level). migrate: gangs that run
    move to fewer nodes where that saves more than it costs. quotas: GPUs that are a tenant's own. breakdowns: of nodes;
    None: nothing fails.
    """

    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    placement: Placement | None = None
    gpus_per_node: int = 1
    rack_gpus: int = 0
    migrate: bool = False
    quotas: Mapping[str, int] = field(default_factory=dict)
    breakdowns: Breakdowns | None = None

    def check(self, capacity: int) -> None:
        """Raise `UserError` for conditions that do not go together on so many GPUs."""
        if self.placement is None and self.breakdowns is not None:
            raise UserError("--gpu-mtbf-hours needs --placement packed, consolidated or spread: a failure is of a node")
        if self.placement is None and self.migrate:
            raise UserError("--migrate needs --placement packed or spread: gangs that are only counted cannot move")
        if self.migrate and self.placement == CONSOLIDATED and not self.rack_gpus:
            raise UserError(
                "--migrate does nothing with --placement consolidated: no gang is on more nodes than needed"
            )
        if sum(self.quotas.values()) > capacity:
            raise UserError(
                f"--quotas are {sum(self.quotas.values()):,} GPUs together, more than the {capacity:,} of the cluster "
                "(--num-gpus)"
            )

    def with_seed(self, seed: int) -> Conditions:
        """The same with other times of failures."""
        return replace(self, breakdowns=replace(self.breakdowns, seed=seed)) if self.breakdowns else self

    def nodes(self, capacity: int) -> Nodes | None:
        """The cluster's nodes; None where gangs are only counted."""
        if self.placement is None:
            return None
        size = min(self.gpus_per_node, capacity)
        return Nodes(capacity, size, self.rack_gpus if capacity > size else 0)

    def unit(self, capacity: int) -> int:
        """In multiples of how many GPUs a policy that gives whole nodes counts: within one node, of one."""
        return self.gpus_per_node if self.placement is not None and capacity > self.gpus_per_node else 1

    def fragments(self, capacity: int) -> list[Fragment]:
        """How gangs may lie, other than on as few nodes as hold them."""
        if self.placement is None or capacity <= self.gpus_per_node:
            return []
        size = self.gpus_per_node
        small = [Fragment(chunk) for chunk in range(1, size) if size % chunk == 0]
        racks = [Fragment(f.chunk, True) for f in (*small, Fragment(size))] if 0 < self.rack_gpus < capacity else []
        return [*small, *racks]

    def failures(self, kind: Kind, gpus: int) -> Failures | None:
        """How often a gang of so many GPUs fails, with all GPUs of its nodes; None where nothing does."""
        if self.breakdowns is None:
            return None
        write = max(_SHORTEST_S, self.checkpoints.transfer_s(kind, gpus))
        return Failures(self.breakdowns.gpu_mtbf_hours, write, self.checkpoints.recovery_s(kind, gpus))

    def interval_s(self, kind: Kind, gpus: int) -> tuple[float, float]:
        """Seconds of training between checkpoints, and of a checkpoint; infinite and 0 where nothing fails."""
        failures = self.failures(kind, gpus)
        if failures is None:
            return math.inf, 0.0
        return failures.best_interval_s(self._exposed(gpus)), failures.checkpoint_s

    def slowed(self, kind: Kind, table: SpeedTable, capacity: int) -> SpeedTable:
        """Speeds with the checkpoints that failures call for, on the counts on which a job gets on in spite of them.
        Raises `UserError` where there is none."""
        if self.breakdowns is None:
            return table
        lasting = [i for i, n in enumerate(table.gpus) if self._stretch(kind, n) <= _MOST_STRETCH]
        there = [i for i in lasting if self._there(table.gpus[i], capacity) >= _LEAST_THERE]
        if not there:
            why = "failures undo more than is trained between them"
            if lasting:
                why = f"so many of the {capacity:,} are hardly ever in service together"
            raise UserError(
                f"{kind[0]} would not get on with --gpu-mtbf-hours {self.breakdowns.gpu_mtbf_hours:g}: on "
                f"{table.gpus[0]:,} GPUs {why}"
            )
        pairs = [self.interval_s(kind, table.gpus[i]) for i in there]
        return table.only(there).times([1 + write / interval for interval, write in pairs]).improving()

    def _there(self, gpus: int, capacity: int) -> float:
        """The part of the time that so many GPUs are in service: nodes that are out are as many as come in the time of
        a repair, a Poisson distribution."""
        if self.breakdowns is None:
            return 1.0
        out = capacity * self.breakdowns.repair_hours / self.breakdowns.gpu_mtbf_hours
        spare = (capacity - gpus) // self.gpus_per_node
        term = total = math.exp(-out)
        for count in range(1, min(spare, 10_000) + 1):
            term *= out / count
            total += term
        return total

    def promised(self, table: SpeedTable, unit: int, capacity: int) -> SpeedTable:
        """Speeds that gangs on whole nodes have at least, in whatever racks these are; of the counts that take the same
        nodes, the fastest."""
        last = {-(-gpus // unit): place for place, gpus in enumerate(table.gpus)}
        table = table.only(sorted(last.values()))
        if not 0 < self.rack_gpus < capacity:
            return table
        far = Fragment(self.gpus_per_node, True)
        seconds = (
            table.seconds_on(n, far) if n > self.gpus_per_node else table.seconds[i] for i, n in enumerate(table.gpus)
        )
        return replace(table, seconds=tuple(seconds)).improving()

    def _stretch(self, kind: Kind, gpus: int) -> float:
        failures = self.failures(kind, gpus)
        return 1.0 if failures is None else failures.stretch(self._exposed(gpus))

    def _exposed(self, gpus: int) -> int:
        """GPUs whose failure stops a gang: all of its nodes."""
        return -(-gpus // self.gpus_per_node) * self.gpus_per_node


def lying(gpus: int, size: int, chunk: int, scattered: bool) -> Fragment | None:
    """How a gang lies, as its speeds are named; None: on as few nodes as hold it. size: GPUs of a node."""
    if chunk >= min(gpus, size):
        return Fragment(size, True) if scattered and gpus > size else None
    return Fragment(chunk, scattered)
