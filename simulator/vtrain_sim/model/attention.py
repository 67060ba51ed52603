"""Self-attention: multi-head, grouped-query and multi-latent."""

from __future__ import annotations

from vtrain_schemas.operators import Operator
from vtrain_sim.model.program import Communication, Compute, Item
from vtrain_sim.model.sharding import Shard, backward, backward_of, recompute


def attention_block(shard: Shard) -> tuple[list[Item], list[Item]]:
    """Norm, projections, core attention and output projection: forward and backward."""
    configuration = shard.configuration
    model, parallel, train = configuration.model, configuration.parallel, configuration.train
    norm = shard.norm("input_layernorm", shard.local_tokens, model.hidden_size)
    before, backward_before = _latent(shard) if model.multi_latent_attention else _fused_qkv(shard)
    core = Compute("core_attention", core_attention(shard))
    proj = shard.linear("linear_proj", shard.tokens, model.hidden_size, model.attention_width // shard.tp)
    leave, backward_leave = shard.leave("attention", "linear_proj")
    ring: list[Item] = []
    if parallel.cp > 1:
        kv = 2 * (shard.tokens * max(1, model.num_query_groups // shard.tp) * model.kv_channels) * shard.size
        ring = [Communication("cp_ring", "all_gather", "cp", parallel.cp, kv * parallel.cp, "core_attention")]
    again: list[Item] = [recompute(core)] if train.recompute_granularity == "selective" else []
    return (
        [norm, *before, *ring, core, *proj, *leave],
        [*backward_leave, *backward_of(proj), *ring, *again, backward(core), *backward_before, backward(norm)],
    )


def core_attention(shard: Shard) -> Operator:
    """Scores, softmax and weighted sum of one rank's heads and part of the sequence."""
    configuration = shard.configuration
    model, parallel, train = configuration.model, configuration.parallel, configuration.train
    head_dim = model.kv_channels
    if model.multi_latent_attention:
        # Scores over qk + rope channels, sums over v channels: the mean has the same FLOPs.
        head_dim = (model.qk_head_dim + model.qk_pos_emb_head_dim + model.v_head_dim) // 2
    return Operator(
        "attention",
        "forward",
        batch=train.micro_batch_size,
        seq_q=model.seq_length // parallel.cp,
        seq_kv=model.seq_length,
        heads=model.num_attention_heads // shard.tp,
        kv_heads=max(1, model.num_query_groups // shard.tp),
        head_dim=head_dim,
        dtype=shard.dtype,
        fused="flash" if train.attention_kernel == "flash" else "",
    )


def _fused_qkv(shard: Shard) -> tuple[list[Item], list[Item]]:
    """One projection for queries, keys and values, then rotary embedding."""
    model = shard.configuration.model
    width = model.qkv_width // shard.tp
    qkv = shard.linear("linear_qkv", shard.tokens, width, model.hidden_size)
    enter, backward_enter = shard.enter("attention", "linear_qkv")
    small: list[Compute] = []
    if model.qk_layernorm:
        heads = (model.num_attention_heads + model.num_query_groups) // shard.tp
        small.append(shard.norm("qk_layernorm", shard.tokens * max(1, heads), model.kv_channels))
    small.append(shard.operator("rope", "rope", shard.tokens, width))
    return (
        [*enter, *qkv, *small],
        [*backward_of(small), *shard.gather_again("linear_qkv"), *backward_of(qkv), *backward_enter],
    )


def _latent(shard: Shard) -> tuple[list[Item], list[Item]]:
    """Queries, keys and values through low-rank projections (DeepSeek-V2, arXiv:2405.04434, section 2.1).

    The down-projections are replicated and work on the local part of the sequence; the compressed
    rows are gathered for the sharded up-projections.
    """
    model = shard.configuration.model
    heads, tokens, local = model.num_attention_heads // shard.tp, shard.tokens, shard.local_tokens
    query = heads * (model.qk_head_dim + model.qk_pos_emb_head_dim)
    down: list[Compute] = []
    if model.q_lora_rank:
        down += shard.linear("linear_q_down", local, model.q_lora_rank, model.hidden_size)
        down += [shard.norm("q_layernorm", local, model.q_lora_rank)] * model.qk_layernorm
    compressed = model.kv_lora_rank + model.qk_pos_emb_head_dim
    down += shard.linear("linear_kv_down", local, compressed, model.hidden_size)
    down += [shard.norm("kv_layernorm", local, model.kv_lora_rank)] * model.qk_layernorm
    up = shard.linear("linear_q_up", tokens, query, model.q_lora_rank or model.hidden_size)
    up += shard.linear("linear_kv_up", tokens, heads * (model.qk_head_dim + model.v_head_dim), model.kv_lora_rank)
    up.append(shard.operator("rope", "rope", tokens, query))
    gather: list[Item] = []
    scatter: list[Item] = []
    if shard.tp > 1:
        rows = tokens * (compressed + (model.q_lora_rank or model.hidden_size)) * shard.size
        if shard.configuration.parallel.sequence_parallel:
            gather = [Communication("attention", "all_gather", "tp", shard.tp, rows)]
            scatter = [Communication("attention", "reduce_scatter", "tp", shard.tp, rows)]
        else:
            scatter = [Communication("attention", "all_reduce", "tp", shard.tp, rows)]
    return [*down, *gather, *up], [*backward_of(up), *scatter, *backward_of(down)]


def attention_parameters(shard: Shard) -> int:
    """Parameters of the block on one rank, its input norm included."""
    model, tp = shard.configuration.model, shard.tp
    h, bias = model.hidden_size, model.add_bias_linear
    per_norm = 2 if model.normalization == "LayerNorm" else 1
    total = h * per_norm
    if model.multi_latent_attention:
        heads = model.num_attention_heads // tp
        query = heads * (model.qk_head_dim + model.qk_pos_emb_head_dim)
        if model.q_lora_rank:
            total += h * model.q_lora_rank + model.q_lora_rank * per_norm * model.qk_layernorm
        total += (model.q_lora_rank or h) * query
        total += (
            h * (model.kv_lora_rank + model.qk_pos_emb_head_dim) + model.kv_lora_rank * per_norm * model.qk_layernorm
        )
        total += model.kv_lora_rank * heads * (model.qk_head_dim + model.v_head_dim)
    else:
        total += h * model.qkv_width // tp + (model.qkv_width // tp if bias else 0)
        if model.qk_layernorm:
            total += 2 * model.kv_channels * per_norm
    return total + model.attention_width // tp * h + (h if bias else 0)
