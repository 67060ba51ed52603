"""What each item of a program takes on one cluster: durations, streams, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vtrain_schemas.operators import Operator
from vtrain_sim.costs import CollectiveCosts, Estimate, OperatorCosts
from vtrain_sim.costs.host import host_estimate
from vtrain_sim.costs.paths import Path
from vtrain_sim.model import Communication, Compute, Item, Program, Stream, Wait
from vtrain_sim.model.flops import executed_flops
from vtrain_sim.model.offload import HOST
from vtrain_sim.schedules import Placement
from vtrain_sim.simulate.streams import Step, StreamMap
from vtrain_sim.specs import ClusterSpec, ModelSpec
from vtrain_sim.specs.groups import Group, boundary

Integers = NDArray[np.int64]
# Work of a program: each item that takes time, with its whole estimate.
Work: TypeAlias = tuple[tuple[Compute | Communication, Estimate], ...]


class CostModel:
    """Times of operators and communication on one cluster; each distinct one is estimated once.

    alone: a single device of its node works, which its neighbours do not slow down.
    """

    def __init__(
        self, cluster: ClusterSpec, operators: OperatorCosts, collectives: CollectiveCosts, alone: bool = False
    ) -> None:
        self.cluster = cluster
        self.operators = operators
        self.collectives = collectives
        self._contention = 1.0 if alone else cluster.contention
        self._operators: dict[Operator, Estimate] = {}
        self._boundaries: dict[tuple[Placement, int], tuple[tuple[Group, ...], Integers]] = {}

    def operator(self, operator: Operator) -> Estimate:
        """Duration of one call, beside the other devices of the node."""
        estimate = self._operators.get(operator)
        if estimate is None:
            estimate = self._operators[operator] = self.operators.estimate(operator).scaled(self._contention)
        return estimate

    def communication(self, communication: Communication) -> Estimate:
        """Duration of one call that nothing else slows down."""
        if communication.role == HOST:
            return host_estimate(communication.op, communication.nbytes, self.cluster)
        if communication.delivery is not None:
            return self.collectives.exchange(communication.group, communication.nbytes, communication.delivery)
        return self.collectives.estimate(communication.op, communication.group, communication.nbytes)

    def transfer_s(self, boundary: Group, nbytes: int, gathered: Group | None, both_at_once: bool) -> float:
        """Seconds of one exchange across a boundary between stages.

        gathered: the group that gathers again what its ranks have sent each a part of. both_at_once: the two
        directions of an exchange run at the same time; else they follow each other.
        """
        seconds = self.collectives.transfer(boundary, nbytes).seconds
        if gathered is not None and gathered.size > 1:
            seconds += self.collectives.estimate("all_gather", gathered, nbytes * gathered.size).seconds
        return seconds if both_at_once else 2 * seconds

    def boundaries(self, placement: Placement, stage_ranks: int) -> tuple[tuple[Group, ...], Integers]:
        """The boundaries between stages that transfers cross: one of each kind, and [places] which kind leads on
        from each place, from 1; 0 where nothing is transferred. Those that cross the same links are of one kind."""
        key = (placement, stage_ranks)
        boundaries = self._boundaries.get(key)
        if boundaries is None:
            boundaries = self._boundaries[key] = self._boundaries_of(placement, stage_ranks)
        return boundaries

    def _boundaries_of(self, placement: Placement, stage_ranks: int) -> tuple[tuple[Group, ...], Integers]:
        kinds: dict[Path, int] = {}
        groups: list[Group] = []
        which = np.zeros(len(placement.virtual_stage), dtype=np.int64)
        for place, other in enumerate(placement.next_stage):
            stage = placement.stage_of(place)
            if other in (-1, stage):
                continue
            group = boundary(stage_ranks, stage, other)
            path = self.collectives.path(group)
            if path not in kinds:
                groups.append(group)
            which[place] = kinds.setdefault(path, len(groups))
        return tuple(groups), which

    def slowed(self, seconds: float) -> float:
        """Duration of a communication all of which runs beside compute, whose cores and memory it shares."""
        return seconds * self.cluster.overlap_slowdown

    def beside(self, seconds: float, cover_s: float) -> float:
        """Duration of a communication that runs beside `cover_s` seconds of compute, then undisturbed."""
        return min(self.slowed(seconds), seconds + cover_s * (1 - 1 / self.cluster.overlap_slowdown))

    def work(self, items: Sequence[Item]) -> Work:
        """Estimates of all items that take time."""
        return tuple((item, self._estimate(item)) for item in items if not isinstance(item, Wait))

    def _estimate(self, item: Compute | Communication) -> Estimate:
        return self.operator(item.operator) if isinstance(item, Compute) else self.communication(item)

    def steps(self, items: Sequence[Item]) -> tuple[Step, ...]:
        """A program with durations, as it is issued."""
        covers = self._covers(items)
        steps: list[Step] = []
        for item, cover_s in zip(items, covers, strict=True):
            if isinstance(item, Wait):
                steps.append(Step(item, Stream.COMPUTE, 0.0, waits_for=item.name))
            elif isinstance(item, Compute):
                steps.append(self._compute(item))
            else:
                steps += self._communication(item, cover_s)
        return tuple(steps)

    def _compute(self, item: Compute) -> Step:
        surface = self.operators.surface
        launch_s = surface.surfaces.launch_s
        if item.launches is None:
            launched_s = surface.launch_seconds(item.operator, item.host_share)
        else:
            launched_s = launch_s * item.launches
        host_s = launched_s * item.share
        first_s = min(host_s, launch_s)
        estimate = self.operator(item.operator)
        seconds = estimate.seconds * item.share
        return Step(item, Stream.COMPUTE, seconds, host_s, first_s, host_waits=item.host_waits, estimate=estimate)

    def _communication(self, item: Communication, cover_s: float) -> list[Step]:
        estimate = self.communication(item)
        seconds = estimate.seconds
        if item.blocking:
            return [Step(item, item.stream, seconds, estimate=estimate)]
        # What cannot hide (communication that runs on the cores that compute) holds compute up.
        hidden = seconds * self.cluster.overlap_efficiency
        steps = []
        if hidden < seconds:
            steps.append(Step(item, item.stream, seconds - hidden, estimate=estimate))
        if hidden > 0:
            # Copy engines take nothing from what runs beside them.
            beside_s = hidden if item.role == HOST else self.beside(hidden, cover_s)
            steps.append(Step(item, item.stream, beside_s, blocking=False, estimate=estimate))
        return steps

    def _covers(self, items: Sequence[Item]) -> list[float]:
        """For each item, the seconds of compute beside which a communication that does not block can run: what is
        issued until something waits for it; for what nothing in it waits for, as much as the whole program."""
        if all(not isinstance(item, Communication) or item.blocking for item in items):
            return [0.0] * len(items)
        compute_s = [self.operator(i.operator).seconds * i.share if isinstance(i, Compute) else 0.0 for i in items]
        covers = []
        for at, item in enumerate(items):
            cover_s = 0.0
            if isinstance(item, Communication) and not item.blocking:
                waits = (w for w in range(at, len(items)) if items[w] == Wait(item.name))
                end = next(waits, None)
                cover_s = sum(compute_s) if end is None else sum(compute_s[at:end])
            covers.append(cover_s)
        return covers


@dataclass(frozen=True)
class TimedDirection:
    """One direction of a part of the model: how it is issued, and what it does to the streams."""

    steps: tuple[Step, ...]
    map: StreamMap


@dataclass(frozen=True)
class TimedProgram:
    """A part of the model with durations. executed_flops: of its matrix products and attention in all directions, on
    the mean of the ranks."""

    program: Program
    forward: TimedDirection
    backward: TimedDirection
    weight: TimedDirection
    executed_flops: float

    @classmethod
    def of(cls, program: Program, costs: CostModel, model: ModelSpec) -> TimedProgram:
        """Estimate a program."""
        forward, backward, weight = (
            TimedDirection(steps := costs.steps(items), StreamMap.of(steps))
            for items in (program.forward, program.backward, program.weight)
        )
        items = (*program.forward, *program.backward, *program.weight)
        flops = sum(executed_flops(i.operator, model) * i.share for i in items if isinstance(i, Compute))
        return cls(program, forward, backward, weight, flops)
