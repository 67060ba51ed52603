"""Operator programs of a transformer layer, the embedding, the output head and a microbatch."""

from __future__ import annotations

from dataclasses import replace

from vtrain_schemas.operators import Operator, dtype_bytes
from vtrain_sim.model.attention import attention_block, attention_parameters
from vtrain_sim.model.feedforward import mlp_block, mlp_parameters, moe_block, moe_parameters
from vtrain_sim.model.program import EVERYTHING, Communication, Compute, Item, Program
from vtrain_sim.model.sharding import Shard, backward, run_again

SPLIT_KINDS = ("gemm", "grouped_gemm", "router")


def layer(shard: Shard, moe: bool, recomputed: bool) -> Program:
    """One transformer layer; `recomputed`: the backward pass runs the whole forward pass again."""
    model = shard.configuration.model
    attention_forward, attention_backward = attention_block(shard)
    mlp_forward, mlp_backward = moe_block(shard) if moe else mlp_block(shard)
    add = shard.operator("bias_dropout_add", "bias_dropout_add", shard.local_tokens, model.hidden_size)
    forward = [*attention_forward, *mlp_forward, add]
    back = [backward(add), *mlp_backward, *attention_backward]
    if recomputed:
        back = [*run_again(forward), *back]
    dense, expert = layer_parameters(shard, moe)
    if not shard.configuration.train.gradient_accumulation_fusion:
        kept = shard.configuration.train.main_grads_dtype
        add_up = Operator("grad_accumulate", "update", dense + expert, dtype=kept)
        back.append(Compute("grad_accumulate", add_up))
    name = "layer" + "_moe" * moe + "_recomputed" * (recomputed and _some_only(shard))
    program = Program(name, tuple(forward), tuple(back), dense, expert)
    return _split(shard, _fully_sharded(shard, program))


def layer_parameters(shard: Shard, moe: bool) -> tuple[int, int]:
    """Parameters of one layer on one rank: shared by all data parallel ranks, and expert ones."""
    attention = attention_parameters(shard)
    if not moe:
        return attention + mlp_parameters(shard), 0
    dense, expert = moe_parameters(shard)
    return attention + dense, expert


def _some_only(shard: Shard) -> bool:
    return shard.configuration.train.recompute_method == "block"


def embedding(shard: Shard) -> Program:
    """Input embedding of the first stage."""
    model = shard.configuration.model
    rows = model.padded_vocab_size(shard.tp) // shard.tp
    look_up = shard.operator("embedding", "embedding", shard.tokens, model.hidden_size, rows)
    positions = model.max_position_embeddings if model.position_embedding_type == "learned_absolute" else 0
    leave, backward_leave = shard.leave("embedding", "")
    return _fully_sharded(
        shard,
        Program(
            "embedding",
            (look_up, *leave),
            (*backward_leave, backward(look_up)),
            (rows + positions) * model.hidden_size,
        ),
    )


def head(shard: Shard, tied_on_this_rank: bool) -> Program:
    """Final norm, projection onto the vocabulary and loss, on the last stage."""
    model = shard.configuration.model
    columns = model.padded_vocab_size(shard.tp) // shard.tp
    norm = shard.norm("final_layernorm", shard.local_tokens, model.hidden_size)
    output = shard.operator("output_layer", "gemm", shard.tokens, columns, model.hidden_size)
    loss = shard.operator("loss", "loss", shard.tokens, columns)
    # Maximum, predicted logit and sum of exponentials, each over the tensor parallel group.
    reduce: list[Item] = []
    if shard.tp > 1:
        reduce = [Communication("loss", "all_reduce", "tp", shard.tp, shard.tokens * 4)] * 3
    enter, backward_enter = shard.enter("output_layer", "output_layer")
    forward = [norm, *enter, output, loss, *reduce]
    back = [
        backward(loss),
        *shard.gather_again("output_layer"),
        backward(output),
        *backward_enter,
        backward(norm),
    ]
    parameters = model.hidden_size * (2 if model.normalization == "LayerNorm" else 1)
    if not tied_on_this_rank:
        parameters += columns * model.hidden_size
    program = Program("head", tuple(forward), tuple(back), parameters)
    return _split(shard, _fully_sharded(shard, program))


def microbatch(shard: Shard) -> Program:
    """What a microbatch costs outside the model: data, loss scaling, bookkeeping."""
    tokens = shard.configuration.model.seq_length * shard.configuration.train.micro_batch_size
    work = Compute("microbatch", Operator("microbatch", "forward", tokens))
    return Program("microbatch", (work,), (backward(work),))


def _fully_sharded(shard: Shard, program: Program) -> Program:
    """Adds the gathering of parameters and the scattering of gradients of ZeRO-3 (Rajbhandari et al. 2020)."""
    parallel, train = shard.configuration.parallel, shard.configuration.train
    if not parallel.fsdp:
        return program
    gathers: list[Item] = []
    scatters: list[Item] = []
    groups = (
        (program.parameters, parallel.dp * parallel.cp, "dp"),
        (program.expert_parameters, parallel.expert_dp, "expert_dp"),
    )
    for count, ranks, role in groups:
        if count and ranks > 1:
            weights, gradients = count * shard.size, count * dtype_bytes(train.main_grads_dtype)
            gathers.append(Communication("param_gather", "all_gather", role, ranks, weights, EVERYTHING))
            scatters.append(Communication("grad_sync", "reduce_scatter", role, ranks, gradients, EVERYTHING))
    return replace(program, forward=(*gathers, *program.forward), backward=(*gathers, *program.backward, *scatters))


def _split(shard: Shard, program: Program) -> Program:
    """For a zero-bubble schedule: weight gradients apart from input gradients (Qi et al., ICLR 2024)."""
    if not shard.configuration.zero_bubble:
        return program
    inputs: list[Item] = []
    weights: list[Item] = []
    for item in program.backward:
        if isinstance(item, Compute) and item.operator.kind in SPLIT_KINDS and item.operator.phase == "backward":
            inputs.append(replace(item, operator=replace(item.operator, phase="dgrad")))
            weights.append(replace(item, operator=replace(item.operator, phase="wgrad")))
        else:
            inputs.append(item)
    return replace(program, backward=tuple(inputs), weight=tuple(weights))
