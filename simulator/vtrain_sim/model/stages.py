"""Which part of the model each stage and chunk runs, and what a step does besides microbatches."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from vtrain_schemas.operators import Operator, dtype_bytes
from vtrain_sim.model import layers
from vtrain_sim.model.program import Communication, Compute, Item, Program
from vtrain_sim.model.sharding import Shard
from vtrain_sim.specs import Configuration


@dataclass(frozen=True)
class StageProgram:
    """What one pipeline stage runs.

    chunks: per model chunk, (program, how many times) in forward order. once: what it does once a step.
    """

    stage: int
    chunks: tuple[tuple[tuple[Program, int], ...], ...]
    once: OnceProgram
    parameters: int
    expert_parameters: int

    @property
    def before(self) -> tuple[Item, ...]:
        return self.once.before

    @property
    def sync(self) -> tuple[Item, ...]:
        return self.once.sync

    @property
    def update(self) -> tuple[Item, ...]:
        return self.once.update


@dataclass(frozen=True)
class OnceProgram:
    """What a stage does once a step, besides microbatches.

    before: before the first one. sync: after the last one, until all stages have their gradients.
    update: from there to the end of the step.
    """

    before: tuple[Item, ...]
    sync: tuple[Item, ...]
    update: tuple[Item, ...]


@dataclass(frozen=True)
class StepProgram:
    """A whole training step: one program a stage, and what passes between stages."""

    configuration: Configuration
    stages: tuple[StageProgram, ...]
    boundary_bytes: int


class Parts:
    """The distinct programs of a configuration; each is built once, when it is first asked for."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.shard = Shard(configuration)
        self._layers: dict[tuple[bool, bool], Program] = {}

    def layer(self, moe: bool, recomputed: bool) -> Program:
        """A transformer layer."""
        found = self._layers.get((moe, recomputed))
        if found is None:
            found = self._layers[moe, recomputed] = layers.layer(self.shard, moe, recomputed)
        return found

    @cached_property
    def embedding(self) -> Program:
        """The input embedding."""
        return layers.embedding(self.shard)

    @cached_property
    def head(self) -> Program:
        """The output head; a tied table's parameters are counted with the embedding on the same rank."""
        configuration = self.configuration
        tied = not configuration.model.untie_embeddings_and_output_weights
        return layers.head(self.shard, tied_on_this_rank=tied and configuration.parallel.pp == 1)

    @cached_property
    def microbatch(self) -> Program:
        """A microbatch's own work on each stage."""
        return layers.microbatch(self.shard)

    @property
    def boundary_bytes(self) -> int:
        """Bytes that one rank sends to the next stage."""
        shard, parallel = self.shard, self.configuration.parallel
        whole = shard.local_tokens * self.configuration.model.hidden_size * shard.size
        return whole // parallel.tp if parallel.scatter_gather else whole


def layers_of(configuration: Configuration, slot: int) -> list[tuple[bool, bool]]:
    """The layers of a virtual stage in order: (mixture of experts, recomputed).

    With the block method the first N layers of each chunk are recomputed, with the uniform one all.
    """
    train = configuration.train
    counts = configuration.chunk_layers
    first = sum(counts[:slot])
    kinds = configuration.model.moe_layers[first : first + counts[slot]]
    recomputed = 0
    if train.recompute_granularity == "full":
        recomputed = train.recompute_num_layers if train.recompute_method == "block" else len(kinds)
    return [(moe, index < recomputed) for index, moe in enumerate(kinds)]


def chunk_contents(configuration: Configuration, slot: int) -> Counter[tuple[bool, bool]]:
    """Layers of a virtual stage by kind."""
    return Counter(layers_of(configuration, slot))


def build_step(configuration: Configuration) -> StepProgram:
    """The operator program of a configuration."""
    parallel = configuration.parallel
    parts = Parts(configuration)
    stages = []
    for stage in range(parallel.pp):
        chunks = []
        dense = expert = 0
        for chunk in range(parallel.vpp):
            slot = chunk * parallel.pp + stage
            held: list[tuple[Program, int]] = [(parts.microbatch, 1)]
            if slot == 0:
                held.append((parts.embedding, 1))
            contents = chunk_contents(configuration, slot)
            held += [(parts.layer(*kind), count) for kind, count in contents.items() if count]
            if slot == parallel.pp * parallel.vpp - 1:
                held.append((parts.head, 1))
            chunks.append(tuple(held))
            dense += sum(p.parameters * count for p, count in held)
            expert += sum(p.expert_parameters * count for p, count in held)
        once = once_a_step(
            configuration, dense, expert, stage in (0, parallel.pp - 1), configuration.stage_layers[stage]
        )
        stages.append(StageProgram(stage, tuple(chunks), once, dense, expert))
    return StepProgram(configuration, tuple(stages), parts.boundary_bytes)


def once_a_step(configuration: Configuration, dense: int, expert: int, edge: bool, num_layers: int) -> OnceProgram:
    """What a stage with so many parameters and layers does once a step.

    edge: first or last stage, which share the table of tied embeddings.
    """
    model, parallel, train = configuration.model, configuration.parallel, configuration.train
    replicas, expert_replicas = parallel.dp * parallel.cp, parallel.expert_dp
    gradient, weight = dtype_bytes(train.main_grads_dtype), dtype_bytes(train.params_dtype)
    groups = [
        (n, r, role) for n, r, role in ((dense, replicas, "dp"), (expert, expert_replicas, "expert_dp")) if r > 1 and n
    ]
    owned = total = dense + expert
    if parallel.distributed_optimizer or parallel.fsdp:
        owned = -(-dense // replicas) + -(-expert // expert_replicas)
    before: list[Item] = [Compute("zero_grad", _elements("zero_grad", owned if parallel.fsdp else total))]
    sync: list[Item] = []
    if not parallel.fsdp:
        hidden = "backward" if parallel.overlap_grad_reduce else ""
        reduce_op = "reduce_scatter" if parallel.distributed_optimizer else "all_reduce"
        sync += [Communication("grad_sync", reduce_op, role, r, n * gradient, hidden) for n, r, role in groups]
    if edge and parallel.pp > 1 and not model.untie_embeddings_and_output_weights:
        table = model.padded_vocab_size(parallel.tp) // parallel.tp * model.hidden_size
        sync.append(Communication("embedding_sync", "all_reduce", "embedding", 2, table * gradient))
    if parallel.sequence_parallel:
        norms = 2 * num_layers * model.hidden_size * (2 if model.normalization == "LayerNorm" else 1)
        sync.append(Communication("norm_grads", "all_reduce", "tp", parallel.tp, norms * gradient))
    kinds = ("grad_prepare", "grad_norm", "grad_clip", "optimizer")
    update: list[Item] = [Compute(kind, _elements(kind, owned)) for kind in kinds]
    ranks = parallel.tp * parallel.pp
    if ranks > 1:
        update.append(Communication("grad_norm", "all_reduce", "mp", ranks, 4))
    if parallel.distributed_optimizer:
        behind = "forward" if parallel.overlap_param_gather else ""
        update += [Communication("param_gather", "all_gather", role, r, n * weight, behind) for n, r, role in groups]
    update.append(Compute("step_overhead", Operator("step_overhead", "update", dtype="float32")))
    return OnceProgram(tuple(before), tuple(sync), tuple(update))


def _elements(kind: str, count: int) -> Operator:
    return Operator(kind, "update", count, dtype="float32")
