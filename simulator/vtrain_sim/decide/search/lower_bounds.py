"""What candidates take at least: times and bytes that cost a few products of small matrices, many at once.

A pass takes at least what its parts add to the compute stream, as each of them is a map of the clocks in the max-plus
algebra (`simulate.streams`) whose diagonal that is. A stage of a pipeline works no less than its passes for all
microbatches; before it, the first microbatch has passed the virtual stages ahead of it, and where backward passes are
whole, the last one passes them again afterwards. Transfers, exchanges between replicas and the update take no less than
no time. Memory is no less than parameters, gradients, optimizer states and the activations of what is in flight. The
evaluation of a candidate (`simulate.batch`) never says less, which is tested: a search may leave out what is no better
than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.decide.search.options import PipelineOption
from vtrain_sim.model import Stream
from vtrain_sim.model.chunks import Contents, PartName, part_names
from vtrain_sim.schedules import PipelineShape, kept_in_flight
from vtrain_sim.simulate import memory
from vtrain_sim.simulate.cost_model import CostModel, TimedDirection
from vtrain_sim.simulate.passes import ChunkTimer
from vtrain_sim.specs.shard import ChunkSpec, ShardSpec

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
# Bounds and evaluations sum the same numbers in another order.
_ROUNDING = 1 - 1e-9
# An evaluation counts whole parameters: those that the host updates are rounded. Bytes of one with its states.
_OF_A_PARAMETER = 24
# Microbatches for each stage beyond which no more are in flight, or are not counted.
_FILLED = 2


@dataclass
class PartTable:
    """What the parts of a model take at least, for many shards: columns of [parts, shards] arrays that grow.

    Times in seconds, of one microbatch on one rank; kept: bytes until the backward pass; again: bytes that what runs
    again needs at once; shared, experts: parameters, all ranks' and of experts.
    """

    FIELDS = ("forward", "backward", "kept", "again", "shared", "experts")

    def __init__(self, parts: Sequence[PartName]) -> None:
        self.parts = tuple(parts)
        self.index = {part: row for row, part in enumerate(self.parts)}
        self._columns: list[Floats] = []
        self._of_shard: dict[int, int] = {}
        self._logits: list[float] = []
        self._working: list[float] = []
        self._stacked: Floats | None = None

    def add(self, key: int, shard: ShardSpec, costs: CostModel) -> None:
        """Time the parts of a shard. key: what it is asked for by. Raises `UserError` where a cost is not known."""
        timer = ChunkTimer(shard, costs)
        column = np.zeros((len(self.FIELDS), len(self.parts)))
        for row, part in enumerate(self.parts):
            timed = timer.timed(part)
            again = 0 if part.kind is None else memory.recomputed_bytes(timer.parts, ChunkSpec(((part.kind, 1),)))
            column[:, row] = (
                _least(timed.forward),
                _least(timed.backward) + _least(timed.weight),
                timed.program.kept_bytes,
                again,
                timed.program.parameters,
                timed.program.expert_parameters,
            )
        self._of_shard[key] = len(self._columns)
        self._columns.append(column)
        self._logits.append(memory.logits_bytes(timer.parts))
        self._working.append(memory.working_bytes(timer.parts))
        self._stacked = None

    def __len__(self) -> int:
        return len(self._columns)

    def __contains__(self, key: int) -> bool:
        return key in self._of_shard

    def knows(self, keys: Integers) -> NDArray[np.bool_]:
        """[keys] whether they were timed."""
        distinct, which = np.unique(keys, return_inverse=True)
        known: NDArray[np.bool_] = np.array([key in self for key in distinct.tolist()], dtype=bool)[which]
        return known

    def columns(self, keys: Integers) -> Integers:
        """[keys] numbers of the columns."""
        distinct, which = np.unique(keys, return_inverse=True)
        return np.array([self._of_shard[key] for key in distinct.tolist()], dtype=np.int64)[which]

    def of(self, name: str) -> Floats:
        """[parts, shards] one of `FIELDS`."""
        if self._stacked is None:
            self._stacked = np.stack(self._columns, axis=2)
        of_field: Floats = self._stacked[self.FIELDS.index(name)]
        return of_field

    @property
    def logits(self) -> Floats:
        """[shards] bytes."""
        return np.array(self._logits)

    @property
    def working(self) -> Floats:
        """[shards] bytes."""
        return np.array(self._working)


def _least(direction: TimedDirection) -> float:
    return float(direction.map.matrix[Stream.COMPUTE, Stream.COMPUTE]) if direction.steps else 0.0


class PipelineRows:
    """The parts that stages of a pipeline run: of each distinct stage the first, which keeps most microbatches, and the
    last, behind most others. [rows, parts] counts: of each row all that its places run, what microbatches pass ahead of
    it, and what they pass after it."""

    def __init__(self, pipeline: PipelineOption, table: PartTable) -> None:
        contents, order = pipeline.contents, pipeline.order
        self._shape = PipelineShape(pipeline.pp, contents.placement.chunks // order.parameter_copies, 1)
        counts = np.array([_counts(chunk, table) for chunk in contents.chunks])
        self._order = order
        self.stages = _rows(contents.stage_of)
        placement = contents.placement
        chunk_of = contents.chunk_of.reshape(placement.chunks, placement.stages)[:, self.stages]
        # [rows, chunks, parts]
        self.chunks = counts[chunk_of].transpose(1, 0, 2)
        self.whole = self.chunks.sum(axis=1)
        self.ahead, self.behind = self._on_the_way(contents, counts)
        self._layers = np.zeros(self.whole.shape, dtype=bool)
        for row, stage in enumerate(self.stages.tolist()):
            kinds = {kind for chunk in contents.of_stage(stage) for kind, _ in chunk.layers}
            self._layers[row, [table.index[PartName("layer", kind)] for kind in kinds]] = True
        self.heads = np.array(
            [max(1 + chunk.mtp if chunk.head else 0 for chunk in contents.of_stage(int(s))) for s in self.stages]
        )

    def _on_the_way(self, contents: Contents, counts: Floats) -> tuple[Floats, Floats]:
        """[rows, parts] what the first microbatch passes before each row's stage, and the last one after it."""
        nothing = np.zeros_like(self.whole)
        # Both ends begin at once, or the step does not end with the passes of the slowest stage.
        if self._order.parameter_copies > 1 or self._order.overlaps_optimizer:
            return nothing, nothing
        placement = contents.placement
        virtual = np.array(placement.virtual_stage)
        in_order = np.empty(len(virtual), dtype=np.int64)
        in_order[virtual] = contents.chunk_of
        passed = np.cumsum(counts[in_order], axis=0) - counts[in_order]
        first = virtual.reshape(placement.chunks, placement.stages).min(axis=0)[self.stages]
        ahead = passed[first]
        return ahead, nothing if self._order.splits_backward else ahead

    def seconds(self, table: PartTable, columns: Integers, microbatches: Integers) -> Floats:
        """[lanes] of the passes of a step. columns: of the table, microbatches: of a step, for each lane."""
        forward, backward = table.of("forward"), table.of("backward")
        once = (self.ahead @ forward + self.behind @ backward)[:, columns]
        each = (self.whole @ (forward + backward))[:, columns]
        passes = microbatches // self._order.parameter_copies
        longest: Floats = (once + passes * each).max(axis=0) * _ROUNDING
        return longest

    def passes_bytes(self, table: PartTable, columns: Integers, microbatches: Integers, waste: float) -> Floats:
        """[rows, lanes] bytes of what is in flight and of what runs again.

        waste: of the activations, what the allocator cannot use.
        """
        again = np.where(self._layers[:, :, None], table.of("again"), 0.0).max(axis=1)
        kept = self._activations(table, columns, microbatches) * (1 + waste)
        nbytes: Floats = kept + again[:, columns] + table.working[columns]
        return nbytes

    def bytes(self, table: PartTable, columns: Integers, sharing: Sharing, passes: Floats | float) -> Floats:
        """[lanes] of the stage that needs most. passes: as `passes_bytes`, or less."""
        shared, experts = (self.whole @ table.of(name) for name in ("shared", "experts"))
        copies = self._order.parameter_copies
        own = shared[:, columns] / (sharing.dp * copies) + experts[:, columns] / (sharing.expert_dp * copies)
        every = (shared + experts)[:, columns]
        if not sharing.sharded:
            own = every
        of_stage = every * sharing.held + own * sharing.owned + self.heads[:, None] * table.logits[columns] + passes
        most: Floats = (of_stage.max(axis=0) + sharing.runtime_bytes) * _ROUNDING - _OF_A_PARAMETER
        return most

    def _activations(self, table: PartTable, columns: Integers, microbatches: Integers) -> Floats:
        """[rows, lanes] bytes of what is in flight, at the worst of a schedule's moments."""
        kept = np.einsum("rcp,ps->rcs", self.chunks, table.of("kept"))
        stages = self._shape.stages
        filled = np.minimum(microbatches, max(1, _FILLED * stages * self._order.parameter_copies))
        result = np.zeros((len(self.stages), len(columns)))
        for count in np.unique(filled).tolist():
            lanes = np.flatnonzero(filled == count)
            moments = kept_in_flight(self._order, replace(self._shape, microbatches=count))
            # [moments, chunks, rows]
            there = moments.reshape(len(moments), -1, stages)[:, :, self.stages]
            result[:, lanes] = np.einsum("mcr,rcl->mrl", there, kept[:, :, columns[lanes]]).max(axis=0)
        return result


@dataclass(frozen=True)
class Sharing:
    """How replicas share the optimizer: [lanes] bytes of each parameter that every rank holds and that one rank has,
    and over how many ranks it is sharded. runtime_bytes: of a process without tensors."""

    held: Floats
    owned: Floats
    sharded: bool
    dp: Integers
    expert_dp: Integers
    runtime_bytes: float


def _rows(stage_of: Integers) -> Integers:
    """The first and the last stage of each kind."""
    _, first = np.unique(stage_of, return_index=True)
    _, from_last = np.unique(stage_of[::-1], return_index=True)
    return np.unique(np.concatenate([first, len(stage_of) - 1 - from_last]))


def _counts(chunk: ChunkSpec, table: PartTable) -> Floats:
    counts = np.zeros(len(table.parts))
    for part, count in part_names(chunk):
        counts[table.index[part]] += count
    return counts
