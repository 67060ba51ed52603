"""Times and memory of many configurations at once, as arrays.

What configurations share is made once: programs by what their operators depend on (`ShardSpec`), layouts by
that, the pipeline and the replicas. The rest is arithmetic on arrays with one entry per place (a model chunk
on a stage) or per stage, and one compiled recurrence per schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vtrain_sim import schedules
from vtrain_sim.costs import CollectiveCosts, OperatorCosts
from vtrain_sim.model.flops import model_flops
from vtrain_sim.schedules import PassTimes
from vtrain_sim.simulate import memory
from vtrain_sim.simulate.cost_model import CostModel
from vtrain_sim.simulate.layout import Layout, Layouts, OnceTimer
from vtrain_sim.simulate.replicas import ReplicaTimer
from vtrain_sim.simulate.table import Table
from vtrain_sim.specs import ClusterSpec, Configuration
from vtrain_sim.specs.pipeline import PipelineSpec
from vtrain_sim.specs.replicas import ReplicaSpec
from vtrain_sim.specs.shard import ShardSpec

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Key = TypeVar("Key")
Value = TypeVar("Value")
# What is kept at most: enough for a search to come back to, few enough to stay small in memory.
MOST_LAYOUTS = 20_000
MOST_SHARDS = 2_000


@dataclass(frozen=True)
class Evaluation:
    """[count] arrays, and some with an entry per stage (all stages of the first, then the second, ...).

    critical_stage: [count] the stage that works longest. model_flops: of the model, as Megatron-LM counts them;
    hardware_flops: executed by all ranks. fits, tight: see `MemoryVerdict`. Times in seconds, sizes in bytes.
    end_s: [stages] when the passes of each stage are over, from their begin; exposed_s: [stages] how much longer the
    replicas' exchange of gradients takes.
    """

    iteration_time_s: Floats
    critical_stage: Integers
    peak_bytes: Floats
    fits: NDArray[np.bool_]
    tight: NDArray[np.bool_]
    model_flops: Floats
    hardware_flops: Floats
    stage_memory: dict[str, Floats]
    end_s: Floats
    exposed_s: Floats


class Evaluator:
    """Evaluates configurations on one cluster."""

    def __init__(self, cluster: ClusterSpec, operators: OperatorCosts, collectives: CollectiveCosts) -> None:
        self.cluster = cluster
        self.operators = operators
        self.collectives = collectives
        self._costs = {alone: CostModel(cluster, operators, collectives, alone) for alone in (False, True)}
        self._once = {alone: OnceTimer(costs) for alone, costs in self._costs.items()}
        self._replicas = {alone: ReplicaTimer(costs) for alone, costs in self._costs.items()}
        self._shards: dict[tuple[ShardSpec, bool], Layouts] = {}
        self._layouts: dict[tuple[ShardSpec, PipelineSpec, ReplicaSpec, bool], Layout] = {}

    def costs_of(self, alone: bool) -> CostModel:
        """What items of programs take. alone: on a single device of a node, which nothing beside it slows down."""
        return self._costs[alone]

    def layouts(self, configuration: Configuration) -> Layouts:
        """What all layouts of the configuration's shard share."""
        key = (configuration.shard, self.is_alone(configuration.parallel.world_size))
        layouts = self._shards.get(key)
        if layouts is None:
            _make_room(self._shards, MOST_SHARDS)
            alone = key[1]
            layouts = self._shards[key] = Layouts(
                configuration.shard, self._costs[alone], self._once[alone], self._replicas[alone]
            )
        return layouts

    def layout(self, configuration: Configuration) -> Layout:
        """Times and sizes of the configuration's layout. Raises `UserError` where a cost is not known."""
        c = configuration
        key = (c.shard, c.pipeline, c.replicas, self.is_alone(c.parallel.world_size))
        layout = self._layouts.get(key)
        if layout is None:
            _make_room(self._layouts, MOST_LAYOUTS)
            layout = self._layouts[key] = self.layouts(c).make(c.pipeline, c.replicas)
        return layout

    def is_alone(self, gpus: int) -> bool:
        """Whether each of so many devices is the only one of its node."""
        return min(gpus, self.cluster.gpus_per_node) == 1

    def evaluate(self, configurations: Sequence[Configuration], without_gathers: bool = False) -> Evaluation:
        """Evaluate configurations; raises `UserError` where a cost is not known.

        without_gathers: as if updated parameters were there at once, for what their gathering adds.
        """
        step = _Steps.of(configurations, [self.layout(c) for c in configurations])
        if without_gathers:
            step.places["ready_s"] = 0.0
        ends = schedules.run([layout.schedule for layout in step.layouts], step.pass_times())
        exposed_s = exposed_reductions(step, ends.end_s, ends.gradients_s, self.cluster)
        stages, first = step.stages, step.first_stage
        # All stages begin together: when each has reset its gradients.
        before_s = np.maximum.reduceat(stages["before_s"], first)
        free_s = ends.end_s + exposed_s
        optimistic = np.array([layout.schedule.overlaps_optimizer for layout in step.layouts])
        if optimistic.any():
            # The optimizer step is validated afterwards: a stage need not wait for the others to begin the next
            # one, so that the way down to it is no part of its step (Qi et al., section 4).
            free_s = np.where(optimistic[step.of_stage], free_s - step.arrival_s(), free_s)
        last_s = np.maximum.reduceat(free_s + stages["sync_s"], first)
        update_s = np.maximum.reduceat(stages["update_s"], first)
        world = np.array([c.parallel.world_size for c in configurations])
        iteration_s = (before_s + last_s + update_s) * slowest_of(world, self.cluster)
        busy_s = step.work_s() + stages["sync_s"] + stages["before_s"]
        terms = self._memory(step)
        total = np.sum(list(terms.values()), axis=0)
        peak = np.maximum.reduceat(total, first)
        waste = step.fragmentation[step.of_stage] * terms["activations"]
        least = np.maximum.reduceat(total - waste, first)
        capacity = self.cluster.device.memory_bytes
        fits = peak * (1 + memory.MARGIN) <= capacity
        ranks = np.array([c.parallel.world_size // c.parallel.pp for c in configurations])
        return Evaluation(
            iteration_s,
            _first_at(busy_s, np.maximum.reduceat(busy_s, first), first, step.of_stage),
            peak,
            fits,
            ~fits & (least <= capacity),
            np.array([model_flops(c.model, c.train.global_batch_size, c.parallel.tp) for c in configurations]),
            step.per_step("executed_flops") * ranks,
            terms,
            ends.end_s,
            exposed_s,
        )

    def _memory(self, step: _Steps) -> dict[str, Floats]:
        """[stages] bytes by term."""
        counts = step.microbatches.tolist()
        activations = np.concatenate(
            [layout.activation_bytes(count) for layout, count in zip(step.layouts, counts, strict=True)]
        )
        terms: dict[str, Floats] = {term: step.stages[f"{term}_bytes"] for term in memory.HELD_TERMS}
        terms["activations"] = activations
        # No activation and no logits are there during the update: of both, the larger is the peak.
        passes = activations + terms["logits"]
        terms["working"] = np.maximum(terms["working"], step.stages["step_bytes"] - passes)
        terms["runtime"] = memory.runtime_bytes(self.cluster) + step.fragmentation[step.of_stage] * activations
        return {term: terms[term] for term in memory.TERMS}


@dataclass(frozen=True)
class _Steps:
    """The steps of many configurations: places and stages one configuration after the other."""

    layouts: list[Layout]
    places: Table
    stages: Table
    stage_counts: Integers
    chunks: Integers
    microbatches: Integers
    overlapped: NDArray[np.bool_]
    aligned: NDArray[np.bool_]
    fragmentation: Floats
    first_stage: Integers
    of_stage: Integers
    of_place: Integers
    stage_of_place: Integers

    @classmethod
    def of(cls, configurations: Sequence[Configuration], layouts: list[Layout]) -> _Steps:
        stage_counts = np.array([layout.placement.stages for layout in layouts])
        chunks = np.array([layout.placement.chunks for layout in layouts])
        first_stage = np.cumsum(stage_counts) - stage_counts
        place_counts = stage_counts * chunks
        of_place = np.repeat(np.arange(len(layouts)), place_counts)
        place = np.arange(len(of_place)) - np.repeat(np.cumsum(place_counts) - place_counts, place_counts)
        return cls(
            layouts,
            Table.concatenated([layout.places for layout in layouts]),
            Table.concatenated([layout.stages for layout in layouts]),
            stage_counts,
            chunks,
            np.array([c.num_microbatches for c in configurations]),
            np.array([c.parallel.overlap_p2p for c in configurations]),
            np.array([c.replicas.overlap_grad_reduce and c.replicas.aligned for c in configurations]),
            np.array([memory.fragmentation(c.train) for c in configurations]),
            first_stage,
            np.repeat(np.arange(len(layouts)), stage_counts),
            of_place,
            first_stage[of_place] + place % stage_counts[of_place],
        )

    def pass_times(self) -> PassTimes:
        """Durations as the schedules take them."""
        names = ("forward_s", "backward_s", "weight_s", "transfer_s", "ready_s")
        columns = {name: np.ascontiguousarray(self.places[name]) for name in names}
        return PassTimes(
            stages=self.stage_counts,
            chunks=self.chunks,
            microbatches=self.microbatches,
            overlapped=self.overlapped,
            aligned=self.aligned,
            **columns,
        )

    def passes(self) -> Integers:
        """[count] microbatches that each place runs."""
        copies = np.array([layout.schedule.parameter_copies for layout in self.layouts])
        passes: Integers = self.microbatches // copies
        return passes

    def work_s(self) -> Floats:
        """[stages] seconds of all passes."""
        once = self.places["forward_s"] + self.places["backward_s"] + self.places["weight_s"]
        return _sums(self.stage_of_place, once, len(self.of_stage)) * self.passes()[self.of_stage]

    def per_step(self, name: str) -> Floats:
        """[count] sum over places and microbatches of a column."""
        return _sums(self.of_place, self.places[name], len(self.layouts)) * self.passes()

    def arrival_s(self) -> Floats:
        """[stages] when the first microbatch reaches each stage on its way down."""
        stages = np.arange(len(self.of_stage)) - self.first_stage[self.of_stage]
        place_counts = self.stage_counts * self.chunks
        down = (np.cumsum(place_counts) - place_counts)[self.of_stage] + stages
        hop = self.places["forward_s"][down] + self.places["transfer_s"][down]
        passed = np.cumsum(hop) - hop
        arrival: Floats = passed - passed[self.first_stage][self.of_stage]
        return arrival


def exposed_reductions(step: _Steps, end_s: Floats, gradients_s: Floats, cluster: ClusterSpec) -> Floats:
    """[stages] seconds by which the reductions of gradients end after the passes of a stage.

    They follow each other on one stream in the order in which gradients are complete. Beside passes each takes
    `overlap_slowdown` times as long; once passes are over, the rest goes at full speed.
    """
    exposed: Floats = np.zeros(len(end_s))
    if not (step.places["reduce_s"].any() or step.places["unhidden_s"].any()):
        return exposed
    most = int(step.chunks.max())
    first_place = np.cumsum(step.stage_counts * step.chunks) - step.stage_counts * step.chunks
    stage = np.arange(len(end_s)) - step.first_stage[step.of_stage]
    index = np.arange(most)
    place = (first_place[step.of_stage] + stage)[:, None] + index * step.stage_counts[step.of_stage][:, None]
    exists = index < step.chunks[step.of_stage][:, None]
    place = np.where(exists, place, 0)
    begin = np.where(exists, gradients_s[place], np.inf)
    order = np.argsort(begin, axis=1, kind="stable")
    row = np.arange(len(end_s))
    # The stream has gathered parameters before.
    done = np.where(exists, step.places["gather_s"][place], 0.0).sum(axis=1)
    for nth in range(most):
        chosen = place[row, order[:, nth]]
        later = np.maximum(
            done + step.places["reduce_s"][chosen], begin[row, order[:, nth]] + step.places["reduce_lead_s"][chosen]
        )
        reduces = exists[row, order[:, nth]] & (step.places["reduce_s"][chosen] > 0)
        done = np.where(reduces, later, done)
    exposed = np.maximum(0.0, done - end_s) / cluster.overlap_slowdown
    unhidden: Floats = np.where(exists, step.places["unhidden_s"][place], 0.0).sum(axis=1)
    return exposed + unhidden


def _make_room(kept: dict[Key, Value], most: int) -> None:
    if len(kept) >= most:
        kept.clear()


def _sums(group: Integers, values: Floats, count: int) -> Floats:
    """[count] sum of the values of each group."""
    totals: Floats = np.bincount(group, values, count).astype(np.float64, copy=False)
    return totals


def slowest_of(gpus: Integers, cluster: ClusterSpec) -> Floats:
    """[count] how much longer a step takes because all wait for the slowest node.

    The largest of n normal deviations is about sigma sqrt(2 ln n).
    """
    nodes = np.maximum(1.0, gpus / cluster.gpus_per_node)
    factor: Floats = 1.0 + cluster.straggler_sigma * np.sqrt(2.0 * np.log(nodes))
    return factor


def _first_at(values: Floats, extreme: Floats, first_stage: Integers, of_stage: Integers) -> Integers:
    """[count] the first stage whose value is its configuration's extreme."""
    hits = np.flatnonzero(values >= extreme[of_stage])
    owners, where = np.unique(of_stage[hits], return_index=True)
    stages: Integers = hits[where] - first_stage[owners]
    return stages
