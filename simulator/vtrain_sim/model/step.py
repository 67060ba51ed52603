"""The operator program of a whole training step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from vtrain_sim.model.chunks import Parts, contents_of
from vtrain_sim.model.layers import table_parameters
from vtrain_sim.model.muon import matrices_of
from vtrain_sim.model.once import Holding, OncePerStep, once_per_step
from vtrain_sim.model.program import Item, Program
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec
from vtrain_sim.specs.shard import ChunkSpec, ShardSpec


@dataclass(frozen=True)
class StageProgram:
    """What one pipeline stage runs.

    chunks: for each of its model chunks, (program, how many times in a row) in forward order.
    """

    stage: int
    chunks: tuple[tuple[tuple[Program, int], ...], ...]
    once: OncePerStep
    holding: Holding

    @property
    def parameters(self) -> int:
        """Parameters on one rank that all data parallel ranks share."""
        return self.holding.parameters

    @property
    def expert_parameters(self) -> int:
        """Parameters of experts on one rank."""
        return self.holding.expert_parameters

    @property
    def before(self) -> tuple[Item, ...]:
        """See `OncePerStep`."""
        return self.once.before

    @property
    def sync(self) -> tuple[Item, ...]:
        """See `OncePerStep`."""
        return self.once.sync

    @property
    def update(self) -> tuple[Item, ...]:
        """See `OncePerStep`."""
        return self.once.update


@dataclass(frozen=True)
class StepProgram:
    """A whole training step: one program per stage, and the bytes that one rank sends to the next stage."""

    configuration: Configuration
    stages: tuple[StageProgram, ...]
    boundary_bytes: int


def holding_of(parts: Parts, chunks: tuple[ChunkSpec, ...]) -> Holding:
    """What one rank of a stage with these chunks holds."""
    runs = [run for chunk in chunks for run in parts.runs(chunk)]
    product_dtype = parts.shard.spec.precision.product_dtype
    return Holding(
        sum(program.parameters * count for program, count in runs),
        sum(program.expert_parameters * count for program, count in runs),
        sum(program.replicated_parameters * count for program, count in runs),
        sum(program.parameters_in(product_dtype) * count for program, count in runs),
        table_parameters(parts.shard) if any(chunk.embedding or chunk.head for chunk in chunks) else 0,
        matrices_of(runs, parts.shard.model),
    )


def boundary_bytes(shard: ShardSpec, parts: Parts, scatter_gather: bool) -> int:
    """Bytes that one rank sends to the next stage: hidden states, or its share of them where stages scatter
    and gather what they exchange (Narayanan et al., SC'21, section 4.1)."""
    whole = parts.shard.checkpoint_bytes
    return whole // shard.tp.size if scatter_gather else whole


def parameters_of(model: ModelSpec) -> int:
    """Parameters of a whole model, those of embeddings and all experts included."""
    return sum(_parameters(model))


def active_parameters_of(model: ModelSpec) -> int:
    """Those that a token uses: of the experts, the few that it is routed to."""
    shared, experts = _parameters(model)
    return shared + (experts * model.moe_router_topk // model.num_experts if experts else 0)


@lru_cache(maxsize=4096)
def _parameters(model: ModelSpec) -> tuple[int, int]:
    """Parameters of a whole model without those of its routed experts, and these."""
    (stage,) = build_step(Configuration(model, ParallelSpec(), TrainSpec(1, 1))).stages
    return stage.parameters, stage.expert_parameters


def build_step(configuration: Configuration) -> StepProgram:
    """The operator program of a configuration."""
    parts = Parts(configuration.shard)
    contents = contents_of(configuration.pipeline)
    stages = []
    for stage in range(contents.placement.stages):
        chunks = contents.of_stage(stage)
        holding = holding_of(parts, chunks)
        once = once_per_step(configuration.replicas, holding)
        stages.append(StageProgram(stage, tuple(tuple(parts.runs(chunk)) for chunk in chunks), once, holding))
    sent = boundary_bytes(configuration.shard, parts, configuration.parallel.scatter_gather)
    return StepProgram(configuration, tuple(stages), sent)
