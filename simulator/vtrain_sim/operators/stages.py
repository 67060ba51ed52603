"""Which part of the model each stage and chunk runs, and what a step does besides microbatches."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vtrain_schemas.operators import Operator, dtype_bytes
from vtrain_sim.operators.layers import LayerBuilder, run_again
from vtrain_sim.operators.program import Communication, Compute, Item, Program
from vtrain_sim.specs import Configuration


@dataclass(frozen=True)
class StageProgram:
    """What one pipeline stage runs.

    chunks: per model chunk, (program, how many times) in forward order.
    before: once a step, before the first microbatch. sync: after the last one, until all stages
    have their gradients. update: from there to the end of the step.
    """

    stage: int
    chunks: tuple[tuple[tuple[Program, int], ...], ...]
    before: tuple[Item, ...]
    sync: tuple[Item, ...]
    update: tuple[Item, ...]
    parameters: int
    expert_parameters: int


@dataclass(frozen=True)
class StepProgram:
    """A whole training step: one program a stage, and what passes between stages."""

    configuration: Configuration
    stages: tuple[StageProgram, ...]
    boundary_bytes: int


def build_step(configuration: Configuration) -> StepProgram:
    """The operator program of a configuration."""
    model, parallel = configuration.model, configuration.parallel
    builder = LayerBuilder(configuration)
    layers_per_chunk = model.num_layers // parallel.pp // parallel.vpp
    layer, embedding = builder.layer(), builder.embedding()
    microbatch = builder.microbatch()
    tied = not model.untie_embeddings_and_output_weights
    head = builder.head(tied_on_this_rank=tied and parallel.pp == 1)
    stages = []
    for stage in range(parallel.pp):
        chunks = []
        dense = expert = 0
        for chunk in range(parallel.vpp):
            parts: list[tuple[Program, int]] = [(microbatch, 1)]
            if stage == 0 and chunk == 0:
                parts.append((embedding, 1))
            parts += _chunk_layers(configuration, layer, layers_per_chunk)
            if stage == parallel.pp - 1 and chunk == parallel.vpp - 1:
                parts.append((head, 1))
            chunks.append(tuple(parts))
            dense += sum(p.parameters * count for p, count in parts)
            expert += sum(p.expert_parameters * count for p, count in parts)
        before, sync, update = _once_a_step(configuration, stage, dense, expert, builder)
        stages.append(StageProgram(stage, tuple(chunks), before, sync, update, dense, expert))
    boundary = builder.local_tokens * model.hidden_size * builder.size
    return StepProgram(configuration, tuple(stages), boundary)


def _chunk_layers(configuration: Configuration, layer: Program, count: int) -> list[tuple[Program, int]]:
    """Layers of a chunk; with the block method only the first N of each chunk are recomputed."""
    train = configuration.train
    if train.recompute_granularity != "full" or train.recompute_method != "block":
        return [(layer, count)]
    again = replace(layer, name="layer_recomputed", backward=(*run_again(layer.forward), *layer.backward))
    recomputed = min(count, train.recompute_num_layers)
    parts = [(again, recomputed)]
    return [*parts, (layer, count - recomputed)] if count > recomputed else parts


def _once_a_step(
    configuration: Configuration, stage: int, dense: int, expert: int, builder: LayerBuilder
) -> tuple[tuple[Item, ...], tuple[Item, ...], tuple[Item, ...]]:
    model, parallel, train = configuration.model, configuration.parallel, configuration.train
    replicas = parallel.dp * parallel.cp
    expert_replicas = max(1, replicas // parallel.ep)
    gradient = dtype_bytes(train.main_grads_dtype)
    weight = dtype_bytes(train.params_dtype)
    total = dense + expert
    before: list[Item] = [Compute("zero_grad", _elements("zero_grad", total))]
    sync: list[Item] = []
    hidden = "backward" if parallel.overlap_grad_reduce else ""
    reduce_op = "reduce_scatter" if parallel.distributed_optimizer else "all_reduce"
    for count, ranks, role in ((dense, replicas, "dp"), (expert, expert_replicas, "expert_dp")):
        if ranks > 1 and count:
            sync.append(Communication("grad_sync", reduce_op, role, ranks, count * gradient, hidden))
    tied = not model.untie_embeddings_and_output_weights
    if tied and parallel.pp > 1 and stage in (0, parallel.pp - 1):
        table = model.padded_vocab_size(parallel.tp) // parallel.tp * model.hidden_size
        sync.append(Communication("embedding_sync", "all_reduce", "embedding", 2, table * gradient))
    if parallel.sequence_parallel:
        norms = (2 * model.num_layers // parallel.pp) * model.hidden_size
        norms *= 2 if model.normalization == "LayerNorm" else 1
        sync.append(Communication("norm_grads", "all_reduce", "tp", parallel.tp, norms * gradient))
    owned = total
    if parallel.distributed_optimizer:
        owned = -(-dense // replicas) + -(-expert // expert_replicas)
    parts = ("grad_prepare", "grad_norm", "grad_clip", "optimizer")
    update: list[Item] = [Compute(kind, _elements(kind, owned)) for kind in parts]
    world = parallel.tp * parallel.pp
    if world > 1:
        update.append(Communication("grad_norm", "all_reduce", "mp", world, 4))
    if parallel.distributed_optimizer:
        behind = "forward" if parallel.overlap_param_gather else ""
        for count, ranks, role in ((dense, replicas, "dp"), (expert, expert_replicas, "expert_dp")):
            if ranks > 1 and count:
                update.append(Communication("param_gather", "all_gather", role, ranks, count * weight, behind))
    update.append(Compute("step_overhead", Operator("step_overhead", "update", dtype="float32")))
    return tuple(before), tuple(sync), tuple(update)


def _elements(kind: str, count: int) -> Operator:
    return Operator(kind, "update", count, dtype="float32")
