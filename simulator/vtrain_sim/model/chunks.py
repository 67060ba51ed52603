"""Which parts of the model each virtual stage runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.model import layers as programs
from vtrain_sim.model.fully_sharded import Neighbours, exchanging, is_fully_sharded, with_exchanges
from vtrain_sim.model.program import Program, borrowing
from vtrain_sim.model.shard import Shard
from vtrain_sim.schedules import Placement, Schedule
from vtrain_sim.specs.hybrid_pattern import EXPERTS
from vtrain_sim.specs.pipeline import LayersSpec, PipelineSpec
from vtrain_sim.specs.shard import ChunkSpec, LayerKind, ShardSpec

Integers = NDArray[np.int64]


class PartName(NamedTuple):
    """One part of a model, whatever the shard.

    what: microbatch, embedding, layer, head or mtp_entry. kind: of a layer. table: of a head, that it shares the
    embedding's table with the same rank; of an entry, that its rank holds a copy of the table. borrowed: it uses the
    parameters of another part like it.
    """

    what: str
    kind: LayerKind | None = None
    table: bool = False
    borrowed: bool = False


@lru_cache(maxsize=1 << 14)
def part_names(chunk: ChunkSpec) -> tuple[tuple[PartName, int], ...]:
    """The parts of a virtual stage in forward order, each with how many times in a row."""
    parts = [(PartName("microbatch"), 1)]
    if chunk.embedding:
        parts.append((PartName("embedding"), 1))
    parts += [(PartName("layer", kind), count) for kind, count in chunk.layers]
    for depth in range(chunk.mtp):
        borrowed = chunk.mtp_repeated and depth > 0
        parts.append((PartName("mtp_entry", table=chunk.mtp_table and depth == 0, borrowed=borrowed), 1))
        parts += [(PartName("layer", kind, borrowed=borrowed), count) for kind, count in chunk.mtp_layers]
        parts.append((PartName("head", table=True, borrowed=borrowed), 1))
    if chunk.head:
        parts.append((PartName("head", table=chunk.tied), 1))
    return tuple(parts)


class Parts:
    """The distinct programs of one shard; each is built once, when it is first needed."""

    def __init__(self, spec: ShardSpec) -> None:
        self.shard = Shard(spec)
        self._programs: dict[PartName, Program] = {}
        self._again: dict[LayerKind, int] = {}
        self._exchanging: dict[tuple[int | None, ...], Program] = {}
        self._runs: dict[ChunkSpec, list[tuple[Program, int]]] = {}

    def program(self, part: PartName) -> Program:
        """The program of a part."""
        program = self._programs.get(part)
        if program is None:
            own = self.program(part._replace(borrowed=False)) if part.borrowed else None
            program = self._programs[part] = borrowing(own) if own is not None else self._make(part)
        return program

    def _make(self, part: PartName) -> Program:
        if part.kind is not None:
            return programs.layer(Shard(self._spec(part.kind)), part.kind)
        if part.what == "microbatch":
            return programs.microbatch(self.shard)
        if part.what == "embedding":
            return programs.embedding(self.shard)
        make = programs.head if part.what == "head" else programs.mtp_entry
        return make(self.shard, part.table)

    def layer(self, kind: LayerKind) -> Program:
        """A transformer layer."""
        return self.program(PartName("layer", kind))

    def _spec(self, kind: LayerKind) -> ShardSpec:
        spec = self.shard.spec
        return replace(spec, precision=spec.precision.wide()) if kind.wide else spec

    def again_bytes(self, kind: LayerKind) -> int:
        """Bytes that the largest of the recomputed modules of a layer has back while its backward pass runs."""
        if not self.shard.spec.recomputed_modules:
            return 0
        nbytes = self._again.get(kind)
        if nbytes is None:
            spec = self._spec(kind)
            kept = [
                programs.layer(Shard(replace(spec, recomputed_modules=modules)), kind).saved_bytes
                for modules in ((), *((module,) for module in spec.recomputed_modules))
            ]
            nbytes = self._again[kind] = kept[0] - min(kept)
        return nbytes

    def runs(self, chunk: ChunkSpec) -> list[tuple[Program, int]]:
        """The programs of a virtual stage in forward order, each with how many times in a row."""
        runs = self._runs.get(chunk)
        if runs is None:
            runs = self._runs[chunk] = self._of_chunk(chunk)
        return runs

    def _of_chunk(self, chunk: ChunkSpec) -> list[tuple[Program, int]]:
        programs = [(self.program(part), count) for part, count in part_names(chunk)]
        return with_exchanges(programs, self._exchange) if is_fully_sharded(self.shard) else programs

    def _exchange(self, neighbours: Neighbours) -> Program:
        # The parts are kept, so that their identities are a key.
        key = tuple(None if program is None else id(program) for program in neighbours)
        program = self._exchanging.get(key)
        if program is None:
            program = self._exchanging[key] = exchanging(self.shard, neighbours)
        return program


@dataclass(frozen=True, eq=False)
class Contents:
    """What the places of a pipeline hold. One object for pipelines that hold the same.

    chunks: the distinct chunks; chunk_of: [places] which of them each place holds. stages: the distinct sets of
    chunks on a stage, in chunk order; stage_of: [stages] which of them each stage is. ends: the distinct places
    as (which chunk, is it on the first stage, is it the first chunk of its stage), where Megatron-Core treats
    gradients in another way; end_of: [places] which of them each place is.
    """

    placement: Placement
    chunks: tuple[ChunkSpec, ...]
    chunk_of: Integers
    stages: tuple[tuple[ChunkSpec, ...], ...]
    stage_of: Integers
    ends: tuple[tuple[int, bool, bool], ...]
    end_of: Integers

    def of_place(self, place: int) -> ChunkSpec:
        """What a place holds."""
        return self.chunks[int(self.chunk_of[place])]

    def of_stage(self, stage: int) -> tuple[ChunkSpec, ...]:
        """What a stage holds."""
        return self.stages[int(self.stage_of[stage])]


def contents_of(pipeline: PipelineSpec) -> Contents:
    """What each place of a pipeline holds, where its schedule puts the virtual stages."""
    return _contents(pipeline.schedule, pipeline.stages, pipeline.chunks, pipeline.layers)


@lru_cache(maxsize=8192)
def _contents(schedule: Schedule, stages: int, chunks: int, layers: LayersSpec) -> Contents:
    placement = schedule.placement(stages, chunks)
    *others, last = _virtual_stages(layers, layers.tied and placement.ends_meet)
    if layers.mtp:
        last = replace(
            last,
            mtp=layers.mtp,
            mtp_layers=_runs(_of_depth(layers)),
            mtp_table=not (layers.tied or placement.ends_meet),
            mtp_repeated=layers.mtp_repeated,
        )
    by_virtual_stage = [*others, last]
    by_place = [by_virtual_stage[virtual_stage] for virtual_stage in placement.virtual_stage]
    by_stage = [tuple(by_place[stage::stages]) for stage in range(stages)]
    distinct = tuple(dict.fromkeys(by_place))
    distinct_stages = tuple(dict.fromkeys(by_stage))
    chunk_of = [distinct.index(chunk) for chunk in by_place]
    by_end = [(chunk, place % stages == 0, place < stages) for place, chunk in enumerate(chunk_of)]
    ends = tuple(dict.fromkeys(by_end))
    return Contents(
        placement,
        distinct,
        np.array(chunk_of),
        distinct_stages,
        np.array([distinct_stages.index(stage) for stage in by_stage]),
        ends,
        np.array([ends.index(end) for end in by_end]),
    )


def _of_depth(layers: LayersSpec) -> list[LayerKind]:
    """Layers of a depth of multi-token prediction: its own, or one of the last layer's kind."""
    again = layers.recomputed != 0
    depth = [LayerKind(mixture=symbol == EXPERTS, recomputed=again, symbol=symbol) for symbol in layers.mtp_symbols]
    if not depth:
        mixture, windowed, linear = layers.mixtures[-1], layers.windows[-1], layers.linears[-1]
        depth = [LayerKind(mixture=mixture, recomputed=again, windowed=windowed, linear=linear)]
    depth[-1] = replace(depth[-1], stays=layers.last_stays)
    return depth


def _virtual_stages(layers: LayersSpec, tied_ends: bool) -> tuple[ChunkSpec, ...]:
    """Contents of every virtual stage, in the order in which a microbatch passes them, without multi-token prediction.

    tied_ends: the first and the last virtual stage are on one rank and share the table of the embedding.
    """
    stages = []
    first = 0
    for index, count in enumerate(layers.counts):
        kinds = [_kind(layers, first + position, position, count) for position in range(count)]
        first += count
        is_last = index == len(layers.counts) - 1
        stages.append(ChunkSpec(_runs(kinds), index == 0, is_last, is_last and tied_ends))
    return tuple(stages)


def _kind(layers: LayersSpec, layer: int, position: int, count: int) -> LayerKind:
    """What a layer is, at this position among so many of its virtual stage."""
    at_start, at_end = layers.wide
    return LayerKind(
        mixture=layers.mixtures[layer],
        recomputed=layers.recomputed is None or position < layers.recomputed,
        keeps_input=position % layers.recomputed_together == 0,
        offloaded=position < layers.offloaded,
        windowed=layers.windows[layer],
        symbol=layers.symbols[layer] if layers.symbols else "",
        wide=not at_start <= layer < len(layers.mixtures) - at_end,
        linear=layers.linears[layer],
        offload_share=layers.offloaded / count if layers.offloaded else 0.0,
        stays=layers.last_stays and position == count - 1,
    )


def _runs(kinds: Sequence[LayerKind]) -> tuple[tuple[LayerKind, int], ...]:
    runs: list[tuple[LayerKind, int]] = []
    for kind in kinds:
        if runs and runs[-1][0] == kind:
            runs[-1] = (kind, runs[-1][1] + 1)
        else:
            runs.append((kind, 1))
    return tuple(runs)
