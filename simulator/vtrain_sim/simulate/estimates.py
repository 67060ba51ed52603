"""What the parts of a step cost: operator programs with their times, before anything is scheduled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vtrain_schemas.operators import Operator
from vtrain_sim.costs import CollectiveCosts, Estimate, OperatorCosts
from vtrain_sim.costs.placement import placement
from vtrain_sim.model import Communication, Compute, Item, OnceProgram, Program
from vtrain_sim.model.program import EVERYTHING
from vtrain_sim.specs import ClusterSpec, Configuration

# Model FLOPs are those of matrix multiplications and attention (Narayanan et al., SC'21, appendix).
MATRIX_KINDS = ("gemm", "grouped_gemm", "attention", "router")


class Tally:
    """Time by category, by provenance and by source of error; seconds.

    host_s: what the host needs to launch it all. flops: of matrix products and attention.
    """

    __slots__ = ("category", "error", "flops", "host_s", "provenance", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.category: dict[str, float] = defaultdict(float)
        self.provenance: dict[str, float] = defaultdict(float)
        # Errors of one kind of work are the same error wherever it occurs: they add up linearly.
        self.error: dict[str, float] = defaultdict(float)
        self.flops = 0.0
        self.host_s = 0.0

    def add(self, category: str, source: str, estimate: Estimate, seconds: float) -> None:
        """Add `seconds` of something estimated."""
        self.seconds += seconds
        self.category[category] += seconds
        self.provenance[estimate.provenance] += seconds
        self.error[source] += seconds * estimate.sigma

    def merge(self, other: Tally, count: float = 1) -> None:
        """Add another tally `count` times."""
        self.seconds += other.seconds * count
        self.flops += other.flops * count
        self.host_s += other.host_s * count
        for mine, theirs in (
            (self.category, other.category),
            (self.provenance, other.provenance),
            (self.error, other.error),
        ):
            for key, value in theirs.items():
                mine[key] += value * count


@dataclass(frozen=True)
class EstimatedProgram:
    """A program's directions; `weight` is empty unless the schedule puts weight gradients off."""

    forward: Tally
    backward: Tally
    weight: Tally


@dataclass(frozen=True)
class EstimatedOnce:
    """What a stage does once a step. `hideable` parts run beside the last backward or next forward pass."""

    before: Tally
    sync: Tally
    sync_hideable: tuple[tuple[str, Estimate], ...]
    update: Tally
    update_hideable: tuple[tuple[str, Estimate], ...]

    @property
    def sync_hideable_s(self) -> float:
        return sum(estimate.seconds for _, estimate in self.sync_hideable)

    @property
    def update_hideable_s(self) -> float:
        return sum(estimate.seconds for _, estimate in self.update_hideable)


class Estimator:
    """Estimates programs on one cluster; operators and collectives are estimated once and shared."""

    def __init__(self, cluster: ClusterSpec, operators: OperatorCosts, collectives: CollectiveCosts) -> None:
        self.cluster = cluster
        self.operators = operators
        self.collectives = collectives

    def program(self, configuration: Configuration, program: Program) -> EstimatedProgram:
        """Estimates of one part of the model."""
        return EstimatedProgram(
            self._items(configuration, program.forward, "forward"),
            self._items(configuration, program.backward, "backward"),
            self._items(configuration, program.weight, "backward"),
        )

    def once(self, configuration: Configuration, once: OnceProgram) -> EstimatedOnce:
        """Estimates of what a stage does once a step."""
        sync, sync_hideable = self._once(configuration, once.sync)
        update, update_hideable = self._once(configuration, once.update)
        return EstimatedOnce(self._once(configuration, once.before)[0], sync, sync_hideable, update, update_hideable)

    def transfer_s(self, configuration: Configuration, nbytes: int) -> float:
        """Seconds of one transfer between pipeline stages; 0 without a pipeline."""
        parallel = configuration.parallel
        if parallel.pp == 1:
            return 0.0
        nodes, sharers = placement(configuration, "pp", 2, self.cluster.gpus_per_node)
        seconds = self.collectives.estimate("p2p", 2, nbytes, nodes, sharers).seconds
        if parallel.scatter_gather and parallel.tp > 1:
            nodes, sharers = placement(configuration, "tp", parallel.tp, self.cluster.gpus_per_node)
            seconds += self.collectives.estimate(
                "all_gather", parallel.tp, nbytes * parallel.tp, nodes, sharers
            ).seconds
        # Where they are not issued together, the two directions of an exchange follow each other.
        return seconds if parallel.batch_p2p else 2 * seconds

    def _estimate(self, configuration: Configuration, operator: Operator) -> Estimate:
        # Alone on its node a device is not held up by its neighbours.
        shared = min(configuration.parallel.world_size, self.cluster.gpus_per_node) > 1
        return self.operators.estimate(operator).scaled(self.cluster.contention if shared else 1.0)

    def _items(self, configuration: Configuration, items: Iterable[Item], direction: str) -> Tally:
        tally = Tally()
        items = list(items)
        estimates = [self._estimate(configuration, i.operator) if isinstance(i, Compute) else None for i in items]
        # Names repeat when a layer is recomputed: the backward operator comes last.
        durations = {i.name: p.seconds for i, p in zip(items, estimates, strict=True) if p is not None}
        beside_all: list[tuple[str, Estimate]] = []
        for item, estimate in zip(items, estimates, strict=True):
            if isinstance(item, Compute) and estimate is not None:
                category = "recompute" if item.operator.phase == "recompute" else direction
                tally.add(category, f"{item.operator.kind}/{item.operator.phase}", estimate, estimate.seconds)
                tally.host_s += self.operators.surface.launch_seconds(item.operator)
                if item.operator.kind in MATRIX_KINDS:
                    tally.flops += item.operator.flops()
            elif isinstance(item, Communication):
                name, estimate = self._communication(configuration, item)
                if item.hidden_behind == EVERYTHING:
                    beside_all.append((name, estimate))
                    continue
                cover = durations.get(item.hidden_behind, 0.0) * item.cover
                tally.add(name, item.op, estimate, float(exposed(estimate.seconds, cover, self.cluster)))
        expose(tally, beside_all, tally.seconds, self.cluster)
        late = tally.host_s - tally.seconds
        if late > 0:
            tally.add("host launches", "launch", Estimate(late, 0.3, "modelled"), late)
        return tally

    def _once(
        self, configuration: Configuration, items: Iterable[Item]
    ) -> tuple[Tally, tuple[tuple[str, Estimate], ...]]:
        tally = Tally()
        hideable: list[tuple[str, Estimate]] = []
        for item in items:
            if isinstance(item, Compute):
                estimate = self._estimate(configuration, item.operator)
                name = "step overhead" if item.operator.kind == "step_overhead" else "optimizer"
                tally.add(name, item.operator.kind, estimate, estimate.seconds)
                continue
            name, estimate = self._communication(configuration, item)
            if item.hidden_behind:
                hideable.append((name, estimate))
            else:
                tally.add(name, item.op, estimate, estimate.seconds)
        return tally, tuple(hideable)

    def _communication(self, configuration: Configuration, item: Communication) -> tuple[str, Estimate]:
        nodes, sharers = placement(configuration, item.role, item.size, self.cluster.gpus_per_node)
        estimate = self.collectives.estimate(item.op, item.size, item.bytes, nodes, sharers)
        return f"{item.role} communication", estimate


def exposed(seconds: Any, cover_s: Any, cluster: ClusterSpec) -> Any:
    """What of a communication shows beside `cover_s` seconds of compute that could hide it.

    Takes numbers or arrays. Beside compute it takes `overlap_slowdown` times as long, and
    `overlap_efficiency` of it hides.
    """
    # Progress that it makes under the cover, in seconds of its own undisturbed time.
    hidden = np.minimum(seconds, cover_s / cluster.overlap_slowdown)
    return seconds - hidden * cluster.overlap_efficiency


def expose(tally: Tally, parts: Iterable[tuple[str, Estimate]], cover_s: float, cluster: ClusterSpec) -> None:
    """Add what shows of several communications that share one cover, each its part of it."""
    parts = list(parts)
    whole = sum(estimate.seconds for _, estimate in parts)
    if whole <= 0:
        return
    share = float(exposed(whole, cover_s, cluster)) / whole
    for name, estimate in parts:
        tally.add(name, name, estimate, estimate.seconds * share)
