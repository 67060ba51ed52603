"""Self-attention: multi-head, grouped-query and multi-latent."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from vtrain_schemas.operators import Operator
from vtrain_sim.model.context_parallel import backward_attention, forward_attention, keeps_copies
from vtrain_sim.model.packing import packed
from vtrain_sim.model.program import Compute, Item
from vtrain_sim.model.shard import Region, Shard, backward, backward_of, recompute, run_again

# What makes queries, keys and values: forward, backward, and what of it runs again before attention's backward pass.
Inputs: TypeAlias = tuple[list[Item], list[Item], list[Item]]


def attention_block(shard: Shard, windowed: bool = False) -> Region:
    """Norm, projections, core attention and output projection: forward and backward.

    windowed: to the last tokens alone.
    """
    spec, model = shard.spec, shard.model
    norm = shard.norm("input_layernorm", shard.local_tokens, model.hidden_size)
    before, backward_before, inputs_again = _latent(shard) if model.multi_latent_attention else _fused_qkv(shard)
    core = core_attention(shard, windowed)
    width = model.attention_width // shard.tp
    # Unless it is cast or comes from other ranks, the projection's input is the output that attention keeps anyway.
    copy = None if spec.precision.casts_inputs or keeps_copies(shard) else 0
    project = shard.linear(
        "linear_proj", shard.tokens, model.hidden_size, width, bias=model.add_bias_linear, saves=copy
    )
    leave, backward_leave = shard.norm_after("post_attention_layernorm", shard.row_parallel("attention", project))
    gate = _output_gate(shard, width)
    attend = forward_attention(shard, core)
    again = run_again(attend) if spec.recomputes("core_attn") else []
    norm_again = [recompute(norm)] if spec.recomputes("layernorm") else []
    return (
        [norm, *before, *attend, *gate, *leave],
        [
            *backward_leave,
            *backward_of(gate),
            *inputs_again,
            *again,
            *backward_attention(shard, core),
            *norm_again,
            *backward_before,
            backward(norm),
        ],
    )


def _output_gate(shard: Shard, width: int) -> list[Compute]:
    """The output times the sigmoid of its gate, which the projection of the queries makes too; both are kept."""
    if not shard.model.attention_output_gate:
        return []
    kept = 2 * shard.tokens * width * shard.size
    return [shard.operator("output_gate", "activation", shard.tokens, width, saves=kept)]


# What attention keeps whether or not its scores are computed again.
_NOT_SCORES = ("query", "key", "value", "output")


def core_attention(shard: Shard, windowed: bool = False) -> Compute:
    """Scores, softmax and weighted sum of one rank's heads and part of the sequence, or all of it for fewer heads."""
    operator = _operator(shard)
    scores = 0 if shard.spec.recomputes("core_attn") else _score_bytes(shard)
    saves = _input_output_bytes(shard, operator) + scores
    # A learnable sink is one more score of each head; ranks that share heads have those of all.
    sinks = operator.heads * shard.spec.cp_a2a.size if shard.model.softmax_type == "learnable" else 0
    operator = packed(operator, shard)
    if windowed:
        operator = _within_windows(operator, shard.model.window_size)
    return Compute("core_attention", operator, parameters=sinks, saves=saves)


def _within_windows(operator: Operator, window: int) -> Operator:
    """Attention to the last tokens alone: a band of the square, which has the work of whole squares along it.

    Longformer's sliding window (Beltagy et al., arXiv:2004.05150, section 3.1).
    """
    if window >= operator.seq_kv:
        return operator
    blocks = -(-operator.seq_q // window)
    return replace(operator, batch=operator.batch * blocks, seq_q=window, seq_kv=window, causal=False)


def _score_bytes(shard: Shard) -> int:
    """Bytes that are kept of the scores: softmax and dropout of unfused attention, row statistics of a fused one."""
    return sum(size for name, size in shard.saved(_operator(shard)).items() if name not in _NOT_SCORES)


def _operator(shard: Shard) -> Operator:
    spec, model = shard.spec, shard.model
    head_dim, sharers = model.kv_channels, spec.cp_a2a.size
    if model.multi_latent_attention:
        # Scores over qk + rope channels, sums over v channels: the mean has the same FLOPs.
        head_dim = (model.qk_head_dim + model.qk_pos_emb_head_dim + model.v_head_dim) // 2
    return Operator(
        "attention",
        "forward",
        batch=spec.micro_batch_size,
        seq_q=model.seq_length // spec.query_parts,
        seq_kv=model.seq_length,
        heads=model.num_attention_heads // shard.tp // sharers,
        kv_heads=max(1, model.num_query_groups // shard.tp) // sharers,
        head_dim=head_dim,
        dtype=shard.dtype,
        fused=spec.attention_kernel == "flash",
        causal=True,
    )


def _input_output_bytes(shard: Shard, operator: Operator) -> int:
    """Queries, keys, values and the output; of a sequence in parts, keys and values of the rank's own part."""
    model = shard.model
    if model.multi_latent_attention:
        output = model.v_head_dim
        inputs = 2 * (model.qk_head_dim + model.qk_pos_emb_head_dim) + model.v_head_dim
        made_again = shard.spec.recomputes("mla_up_proj") and not keeps_copies(shard)
        width = model.num_attention_heads // shard.tp * (output + (0 if made_again else inputs))
        return shard.tokens * width * shard.size
    saved = shard.saved(replace(operator, seq_kv=operator.seq_q))
    # The output has the size of the queries, and is kept as the projection's input where attention does not need it.
    return saved["query"] + saved["key"] + saved["value"] + saved["query"]


def _input_bytes(shard: Shard) -> int:
    """What the first products keep of the block's normalised input."""
    return 0 if shard.spec.recomputes("layernorm") else shard.local_input_bytes


def _fused_qkv(shard: Shard) -> Inputs:
    """One projection for queries, keys and values, then rotary embedding."""
    model = shard.model
    width = model.qkv_width // shard.tp
    qkv = shard.linear(
        "linear_qkv",
        shard.tokens,
        width,
        model.hidden_size,
        bias=model.add_bias_linear or model.add_qkv_bias,
        saves=_input_bytes(shard),
    )
    enter, backward_enter = shard.column_parallel("attention_qkv", qkv)
    small: list[Compute] = []
    if model.qk_layernorm:
        heads = max(1, (model.num_attention_heads + model.num_query_groups) // shard.tp)
        norm = shard.norm(
            "qk_layernorm", shard.tokens * heads, model.kv_channels, saves=shard.tokens * width * shard.size
        )
        small.append(_weighted(norm, model.qk_layernorm_weights, heads))
    small.append(shard.operator("rope", "rope", shard.tokens, width))
    if model.position_embedding_type == "yarn":
        # Its attention factor is in no fused kernel, so that queries and keys are rotated step by step.
        rotated = width - max(1, model.num_query_groups // shard.tp) * model.kv_channels
        small.append(shard.operator("rotary_steps", "rotary_steps", shard.tokens, rotated, saves=0))
    return [*enter, *small], [*backward_of(small), *backward_enter], []


def _weighted(norm: Compute, weights: str, heads: int) -> Compute:
    """The norm of queries and keys with its parameters. heads: of both, on one rank."""
    if weights == "all":
        return replace(norm, parameters=heads * norm.parameters, replicated_parameters=0)
    # Queries and keys have a norm each.
    return replace(norm, parameters=2 * norm.parameters if weights == "shared" else 0).replicated()


def _latent(shard: Shard) -> Inputs:
    """Queries, keys and values through low-rank projections (DeepSeek-V2, arXiv:2405.04434, section 2.1).

    The down-projections are replicated and work on the local part of the sequence; the compressed
    rows are gathered for the sharded up-projections.
    """
    model = shard.model
    heads, tokens, local = model.num_attention_heads // shard.tp, shard.tokens, shard.local_tokens
    query = heads * (model.qk_head_dim + model.qk_pos_emb_head_dim)
    compressed = model.kv_lora_rank + model.qk_pos_emb_head_dim
    both = shard.size + shard.spec.precision.saved_input_bytes
    down: list[Compute] = []
    if model.q_lora_rank:
        down += shard.linear("linear_q_down", local, model.q_lora_rank, model.hidden_size, saves=0)
        if model.qk_layernorm:
            down.append(shard.norm("q_layernorm", local, model.q_lora_rank, saves=0))
    # The block's input is kept once for both; of the compressed rows the norms' and the up-projections' inputs.
    kept = _input_bytes(shard) + round(local * (model.q_lora_rank + compressed) * both)
    down += shard.linear("linear_kv_down", local, compressed, model.hidden_size, saves=kept)
    if model.qk_layernorm:
        down.append(shard.norm("kv_layernorm", local, model.kv_lora_rank, saves=0))
    down = [item.replicated() for item in down]
    up = shard.linear("linear_q_up", tokens, query, model.q_lora_rank or model.hidden_size, saves=0)
    keys_and_values = heads * (model.qk_head_dim + model.v_head_dim)
    up += shard.linear("linear_kv_up", tokens, keys_and_values, model.kv_lora_rank, saves=0)
    up.append(shard.operator("rope", "rope", tokens, query))
    gather: list[Item] = []
    scatter: list[Item] = []
    if shard.tp > 1:
        rows = tokens * (compressed + (model.q_lora_rank or model.hidden_size)) * shard.size
        if shard.spec.sequence_parallel:
            gather = [shard.over_tp("attention_latent", "all_gather", rows)]
            scatter = [shard.over_tp("attention_latent", "reduce_scatter", rows)]
        else:
            scatter = [shard.over_tp("attention_latent", "all_reduce", rows)]
    again = run_again([*gather, *up]) if shard.spec.recomputes("mla_up_proj") else []
    return [*down, *gather, *up], [*backward_of(up), *scatter, *backward_of(down)], again
