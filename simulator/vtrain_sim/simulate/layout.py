"""Times and sizes of one pipeline layout: everything about a step but its number of microbatches.

Columns are named; one row per place (a model chunk on a stage) or per stage.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from vtrain_sim.model.chunks import Contents, Parts, contents_of
from vtrain_sim.model.once import Holding, once_per_step
from vtrain_sim.model.step import boundary_bytes, holding_of
from vtrain_sim.schedules import PipelineShape, Placement, Schedule, kept_in_flight
from vtrain_sim.simulate import memory
from vtrain_sim.simulate.cost_model import CostModel, Work
from vtrain_sim.simulate.passes import ChunkTimer, ChunkTimes
from vtrain_sim.simulate.replicas import ExchangeTimer, ExchangeTimes, ReplicaTimer
from vtrain_sim.simulate.table import Floats, Table
from vtrain_sim.specs.pipeline import PipelineSpec
from vtrain_sim.specs.replicas import ReplicaSpec
from vtrain_sim.specs.shard import ChunkSpec, ShardSpec

PLACE = (*ChunkTimes._fields, "transfer_s", "ready_s", *ExchangeTimes._fields)


class StageTimes(NamedTuple):
    """What a stage does once per step, seconds, and the memory that does not depend on its microbatches, bytes."""

    before_s: float
    sync_s: float
    update_s: float
    parameters_bytes: float
    gradients_bytes: float
    optimizer_bytes: float
    working_bytes: float
    logits_bytes: float
    step_bytes: float


@dataclass(frozen=True)
class OnceTimes:
    """What a stage does once per step, with its estimates; seconds. update_s does not overlap with anything."""

    before: Work
    sync: Work
    update: Work

    @cached_property
    def seconds(self) -> tuple[float, float, float]:
        """Of before, sync and update."""
        before, sync, update = (
            sum(estimate.seconds for _, estimate in work) for work in (self.before, self.sync, self.update)
        )
        return before, sync, update


@dataclass(frozen=True)
class Layout:
    """places: rows of `PLACE`. stages: rows of `StageTimes`. holdings: for each of the distinct stages."""

    schedule: Schedule
    contents: Contents
    holdings: tuple[Holding, ...]
    places: Table
    stages: Table
    _activations: dict[int, Floats] = field(default_factory=dict, repr=False, compare=False)

    def activation_bytes(self, microbatches: int) -> Floats:
        """[stages] bytes that each stage keeps for backward passes at its peak, of so many microbatches per step."""
        peak = self._activations.get(microbatches)
        if peak is None:
            placement = self.placement
            chunks = placement.chunks // self.schedule.parameter_copies
            moments = kept_in_flight(self.schedule, PipelineShape(placement.stages, chunks, microbatches))
            kept = (moments * self.places["kept_bytes"]).reshape(-1, placement.chunks, placement.stages)
            peak = self._activations[microbatches] = kept.sum(axis=1).max(axis=0)
        return peak

    @property
    def placement(self) -> Placement:
        """Where the virtual stages are."""
        return self.contents.placement

    def holding(self, stage: int) -> Holding:
        """What one rank of a stage holds."""
        return self.holdings[int(self.contents.stage_of[stage])]


class OnceTimer:
    """Times what stages do once per step, which does not depend on how a microbatch runs."""

    def __init__(self, costs: CostModel) -> None:
        self.costs = costs
        self._times: dict[tuple[Holding, ReplicaSpec], OnceTimes] = {}

    def times(self, holding: Holding, replicas: ReplicaSpec) -> OnceTimes:
        """What a stage that holds so much does once per step."""
        times = self._times.get((holding, replicas))
        if times is None:
            once = once_per_step(replicas, holding)
            times = OnceTimes(*(self.costs.work(items) for items in (once.before, once.sync, once.update)))
            self._times[holding, replicas] = times
        return times


class _Shared(NamedTuple):
    """What the places and the stages of a pipeline hold, whatever its replicas: shared by the layouts that hold the
    same. places: rows of `PLACE` with the durations of passes, nothing of exchanges and transfers. holdings, sizes:
    for each of the distinct stages, as `Layouts._sizes` returns them."""

    places: Floats
    holdings: tuple[Holding, ...]
    sizes: tuple[tuple[float, float, int], ...]


class Layouts:
    """Makes the layouts of one shard."""

    def __init__(self, shard: ShardSpec, costs: CostModel, once: OnceTimer, replicas: ReplicaTimer) -> None:
        self.shard = shard
        self.costs = costs
        self._once = once
        self.timer = ChunkTimer(shard, costs)
        self.exchanges = ExchangeTimer(self.timer, replicas)
        self._holdings: dict[tuple[ChunkSpec, ...], Holding] = {}
        self._of_chunks: dict[tuple[ChunkSpec, ...], tuple[float, float, int]] = {}
        self._shared: dict[Contents, _Shared] = {}
        self._working = memory.working_bytes(self.timer.parts)
        self._logits = memory.logits_bytes(self.timer.parts)

    @property
    def parts(self) -> Parts:
        """Programs of the shard."""
        return self.timer.parts

    def make(self, pipeline: PipelineSpec, replicas: ReplicaSpec) -> Layout:
        """The layout of a pipeline."""
        contents = contents_of(pipeline)
        shared = self._shared.get(contents)
        if shared is None:
            shared = self._shared[contents] = self._share(contents)
        places = Table(PLACE, shared.places.copy())
        places["transfer_s"] = self._transfers(pipeline, contents.placement)
        if replicas.overlap_grad_reduce or replicas.overlap_param_gather:
            self._exchange(places, contents, replicas)
        stages = self._stages(contents, shared, replicas)
        return Layout(pipeline.schedule, contents, shared.holdings, places, stages)

    def holding(self, chunks: tuple[ChunkSpec, ...]) -> Holding:
        """What one rank of a stage with these chunks holds."""
        holding = self._holdings.get(chunks)
        if holding is None:
            holding = self._holdings[chunks] = holding_of(self.parts, chunks)
        return holding

    def once(self, holding: Holding, replicas: ReplicaSpec) -> OnceTimes:
        """What a stage does once per step."""
        return self._once.times(holding, replicas)

    def _share(self, contents: Contents) -> _Shared:
        table = Table.zeros(PLACE, len(contents.chunk_of))
        times = np.array([self.timer.times(chunk) for chunk in contents.chunks])
        table.fill(ChunkTimes._fields, times[contents.chunk_of])
        return _Shared(
            table.values,
            tuple(self.holding(chunks) for chunks in contents.stages),
            tuple(self._sizes(chunks) for chunks in contents.stages),
        )

    def _exchange(self, places: Table, contents: Contents, replicas: ReplicaSpec) -> None:
        stages, chunks = contents.placement.stages, contents.placement.chunks
        times = [
            self.exchanges.times(contents.chunks[chunk], replicas, first_stage, first_chunk, chunks > 1)
            for chunk, first_stage, first_chunk in contents.ends
        ]
        places.fill(ExchangeTimes._fields, np.array(times)[contents.end_of])
        # Chunk after chunk, the stream of a stage gathers parameters from the begin of the step on.
        gather_s = places["gather_s"].reshape(chunks, stages)
        begun_s = (np.cumsum(gather_s, axis=0) - gather_s).ravel()
        places["ready_s"] = np.where(places["gather_s"] > 0, begun_s + places["gather_ready_s"], 0.0)

    def _transfers(self, pipeline: PipelineSpec, placement: Placement) -> Floats:
        nbytes = boundary_bytes(self.shard, self.parts, pipeline.scatter_gather)
        gathered = self.shard.tp if pipeline.scatter_gather else None
        boundaries, which = self.costs.boundaries(placement, pipeline.stage_ranks)
        schedule = pipeline.schedule
        waits = pipeline.host_waits and (schedule.blocking or schedule.waits_for_sends)
        sync_s = self.costs.cluster.p2p_sync_s if waits else 0.0
        seconds = [0.0] + [sync_s + self.costs.transfer_s(b, nbytes, gathered, pipeline.batch_p2p) for b in boundaries]
        transfers: Floats = np.array(seconds)[which]
        return transfers

    def _stages(self, contents: Contents, shared: _Shared, replicas: ReplicaSpec) -> Table:
        rows = [
            self._stage(holding, sizes, replicas) for holding, sizes in zip(shared.holdings, shared.sizes, strict=True)
        ]
        return Table(StageTimes._fields, np.array(rows)[contents.stage_of])

    def _stage(self, holding: Holding, sizes: tuple[float, float, int], replicas: ReplicaSpec) -> StageTimes:
        before_s, sync_s, update_s = self.once(holding, replicas).seconds
        working_bytes, logits_bytes, gathered = sizes
        terms = memory.parameter_terms(replicas, holding, gathered)
        terms_bytes = (terms.parameters, terms.gradients, terms.optimizer, working_bytes + terms.working)
        return StageTimes(before_s, sync_s, update_s, *terms_bytes, logits_bytes, terms.step)

    def _sizes(self, chunks: tuple[ChunkSpec, ...]) -> tuple[float, float, int]:
        """Of a stage with these chunks: bytes that work needs, bytes of logits, parameters that are whole at
        once if they are fully sharded."""
        sizes = self._of_chunks.get(chunks)
        if sizes is None:
            working = self._working + max(memory.recomputed_bytes(self.parts, chunk) for chunk in chunks)
            logits = self._logits * max(1 + chunk.mtp if chunk.head else 0 for chunk in chunks)
            gathered = max(memory.gathered_parameters(self.parts, chunk) for chunk in chunks)
            sizes = self._of_chunks[chunks] = (working, logits, gathered)
        return sizes
