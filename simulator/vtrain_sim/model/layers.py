"""Operator programs of the parts of a model: embedding, transformer layer, output head, a microbatch's own work."""

from __future__ import annotations

from dataclasses import replace

from vtrain_schemas.operators import Operator
from vtrain_schemas.operators import kind as kind_of
from vtrain_sim.frozen import changed
from vtrain_sim.model.attention import attention_block
from vtrain_sim.model.delta_net import delta_net_block
from vtrain_sim.model.expert_overlap import beside_another_microbatch, launch
from vtrain_sim.model.experts import moe_block
from vtrain_sim.model.feedforward import mlp_block
from vtrain_sim.model.graphs import attention_graph, feed_forward_graph, iteration_graph, layer_graph, mamba_graph
from vtrain_sim.model.mamba import mamba_block
from vtrain_sim.model.offload import with_layers_offloaded, with_modules_offloaded
from vtrain_sim.model.program import Communication, Compute, Item, Program, Wait
from vtrain_sim.model.recomputation import recompute_experts
from vtrain_sim.model.shard import Region, Shard, backward, run_again
from vtrain_sim.specs.graphs import ITERATION
from vtrain_sim.specs.hybrid_pattern import ATTENTION, MAMBA
from vtrain_sim.specs.shard import LayerKind


def layer(shard: Shard, kind: LayerKind) -> Program:
    """One layer: attention and a feed-forward block, or the one block that a layer of a hybrid model is."""
    spec = shard.spec
    blocks = _blocks(shard, kind)
    add = _residual_adds(shard, len(blocks))
    forward = [*(item for block in blocks for item in block[0]), add]
    back = [backward(add), *(item for block in reversed(blocks) for item in block[1])]
    name = _SYMBOL_NAMES.get(kind.symbol, "layer_moe" if kind.mixture else "layer")
    name = f"{name}_linear" if kind.linear else name
    if kind.recomputed:
        back = [*run_again(forward), *back]
    if spec.overlap_moe_comm:
        by_part = kind.mixture and ITERATION not in spec.graphed
        forward = beside_another_microbatch(forward, [launch("forward")] * by_part)
        back = beside_another_microbatch(back, [launch("backward")] * by_part)
    forward, back = layer_graph(shard, (forward, back))
    program = Program(
        f"{name}_recomputed" if kind.recomputed else name,
        tuple(forward),
        tuple(back),
        checkpoint_bytes=shard.checkpoint_bytes * kind.keeps_input if kind.recomputed else None,
    )
    if kind.offload_share:
        program = with_layers_offloaded(program, kind.offload_share)
    if kind.offloaded:
        program = replace(program, name=f"{name}_offloaded", checkpoint_bytes=0)
    elif spec.offload_modules and not kind.stays:
        program = with_modules_offloaded(shard, program)
    if not spec.gradient_accumulation_fusion:
        count = program.parameters + program.expert_parameters
        add_up = Operator("grad_accumulate", "update", count, dtype=spec.main_grads_dtype)
        program = replace(program, backward=(*program.backward, Compute("grad_accumulate", add_up)))
    return _split(shard, program)


_SYMBOL_NAMES = {MAMBA: "layer_mamba", ATTENTION: "layer_attention"}


def _blocks(shard: Shard, kind: LayerKind) -> list[Region]:
    if kind.symbol == MAMBA:
        return [mamba_graph(shard, mamba_block(shard))]
    blocks = []
    if kind.linear:
        blocks.append(attention_graph(shard, delta_net_block(shard)))
    elif kind.symbol in ("", ATTENTION):
        blocks.append(attention_graph(shard, attention_block(shard, kind.windowed)))
    if kind.symbol != ATTENTION:
        block = recompute_experts(shard, moe_block(shard)) if kind.mixture else mlp_block(shard)
        blocks.append(feed_forward_graph(shard, block, kind.mixture))
    return blocks


def _residual_adds(shard: Shard, blocks: int) -> Compute:
    """The add after each block; the kind stands for both of a transformer layer."""
    rows, width = shard.local_tokens, shard.model.hidden_size
    if blocks == 2:
        return shard.operator("bias_dropout_add", "bias_dropout_add", rows, width)
    one = shard.operator("bias_dropout_add", "bias_dropout_add", -(-rows // 2), width)
    return replace(one, launches=kind_of("bias_dropout_add").launches(one.operator) // 2)


def embedding(shard: Shard) -> Program:
    """Input embedding, with the first virtual stage."""
    model = shard.model
    rows = model.padded_vocab_size(shard.tp) // shard.tp
    positions = model.max_position_embeddings if model.position_embedding_type == "learned_absolute" else 0
    parameters = (rows + positions) * model.hidden_size
    look_up = shard.operator("embedding", "embedding", shard.tokens, model.hidden_size, rows, parameters=parameters)
    if model.dropout:
        # And the mask of its dropout (Korthikanti et al. 2022, section 4.3).
        look_up = replace(look_up, saves=look_up.saves + shard.local_hidden)
    forward: list[Item] = [look_up]
    back: list[Item] = [backward(look_up)]
    if shard.tp > 1:
        sums = "reduce_scatter" if shard.spec.sequence_parallel else "all_reduce"
        forward.append(shard.over_tp("embedding", sums))
    if shard.spec.sequence_parallel:
        back.insert(0, shard.over_tp("embedding", "all_gather"))
    forward, back = iteration_graph(shard, (forward, back))
    return Program("embedding", tuple(forward), tuple(back))


def mtp_entry(shard: Shard, table: bool) -> Program:
    """What leads into a depth of multi-token prediction (DeepSeek-V3, arXiv:2412.19437, section 2.2, equation 21).

    The hidden states and the embedding of the next token, each normalised, are projected together from twice the
    hidden size; Megatron-Core's projection is column-parallel and its output gathered. table: the rank holds a copy of
    the embedding's table for it, else it uses one that is there.
    """
    model = shard.model
    words = embedding(shard)
    look_up = words.forward[0]
    assert isinstance(look_up, Compute)
    look_up = replace(look_up, parameters=table_parameters(shard) if table else 0)
    norms = [shard.norm(f"mtp_{name}norm", shard.local_tokens, model.hidden_size) for name in ("e", "h")]
    project = shard.linear("mtp_eh_proj", shard.tokens, model.hidden_size // shard.tp, 2 * model.hidden_size)
    enter, backward_enter = shard.column_parallel("mtp_eh_proj", project)
    gather: list[Item] = []
    scatter: list[Item] = []
    if shard.tp > 1:
        gather = [shard.over_tp("mtp_eh_proj", "all_gather")]
        # Each rank goes on with its part of the sequence, whose gradients come together again.
        scatter = [shard.over_tp("mtp_eh_proj", "all_gather")] if shard.spec.sequence_parallel else []
    forward, back = iteration_graph(
        shard,
        (
            [look_up, *words.forward[1:], *norms, *enter, *gather],
            [*scatter, *backward_enter, *(backward(norm) for norm in reversed(norms)), *words.backward],
        ),
    )
    program = Program(
        "mtp_entry",
        tuple(forward),
        tuple(back),
        borrowed_parameters=0 if table else table_parameters(shard),
    )
    return _split(shard, program)


def table_parameters(shard: Shard) -> int:
    """Parameters of the output layer's table on one rank."""
    return shard.model.padded_vocab_size(shard.tp) // shard.tp * shard.model.hidden_size


def head(shard: Shard, tied: bool) -> Program:
    """Final norm, projection onto the vocabulary and loss, with the last virtual stage.

    tied: the table is the embedding's, which the same rank holds and which is counted there.
    """
    model = shard.model
    columns = model.padded_vocab_size(shard.tp) // shard.tp
    norm = shard.norm("final_layernorm", shard.local_tokens, model.hidden_size, saves=0)
    # The output layer stays in the parameters' type whatever the linear layers use.
    output = shard.operator(
        "output_layer",
        "gemm",
        shard.tokens,
        columns,
        model.hidden_size,
        parameters=0 if tied else table_parameters(shard),
        saves=0,
    )
    # Its softmax is one of the logits' tensors, see `logits_bytes`.
    loss = shard.operator("loss", "loss", shard.tokens, columns, saves=0)
    loss = replace(loss, operator=replace(loss.operator, fused=shard.spec.fused_cross_entropy))
    enter, backward_enter = shard.column_parallel("output_layer", [output])
    # Maximum, predicted logit and sum of exponentials, each over the tensor parallel group.
    reduce: list[Item] = [shard.over_tp("loss", "all_reduce", shard.tokens * 4)] * 3 if shard.tp > 1 else []
    forward, back = iteration_graph(
        shard, ([norm, *enter, loss, *reduce], [backward(loss), *backward_enter, backward(norm)])
    )
    program = Program(
        "head",
        tuple(forward),
        tuple(back),
        borrowed_parameters=table_parameters(shard) if tied else 0,
    )
    return _split(shard, program)


def logits_bytes(shard: Shard) -> int:
    """Logits, their copy in 32 bits that becomes the softmax, and its gradient, of one microbatch on one rank.

    One fused kernel needs no copy, and leaves the gradient in place of the logits.
    """
    columns = shard.model.padded_vocab_size(shard.tp) // shard.tp
    return shard.tokens * columns * (shard.size + (0 if shard.spec.fused_cross_entropy else 8))


def microbatch(shard: Shard) -> Program:
    """What a microbatch costs outside the model: data, loss scaling, bookkeeping. A graph of the whole iteration has
    none of it."""
    if ITERATION in shard.spec.graphed:
        return Program("microbatch", (), ())
    tokens = shard.model.seq_length * shard.spec.micro_batch_size
    work = Compute("microbatch", Operator("microbatch", "forward", tokens))
    return Program("microbatch", (work,), (backward(work),))


def _split(shard: Shard, program: Program) -> Program:
    """For a schedule that splits the backward pass: weight gradients apart (Qi et al., ICLR 2024)."""
    if not shard.spec.splits_backward:
        return program
    inputs: list[Item] = []
    weights: list[Item] = []
    late = {item.name for item in program.backward if isinstance(item, Communication) and item.for_weights}
    for item in program.backward:
        if (
            isinstance(item, Compute)
            and item.operator.phase == "backward"
            and kind_of(item.operator.kind).splits_backward
        ):
            inputs.append(changed(item, operator=changed(item.operator, phase="dgrad")))
            if item.part == 0:
                weights.append(changed(item, operator=changed(item.operator, phase="wgrad"), share=1.0))
        elif isinstance(item, Compute) and item.operator.phase == "update":
            weights.append(item)
        elif isinstance(item, Communication) and item.for_weights:
            # Beside the product before the one that needs it.
            weights.insert(max(0, len(weights) - 1), item)
        elif isinstance(item, Wait) and item.name in late:
            weights.append(item)
        else:
            inputs.append(item)
    return replace(program, backward=tuple(inputs), weight=tuple(weights))
