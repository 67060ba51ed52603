"""Feed-forward blocks: dense, and mixture of experts."""

from __future__ import annotations

from vtrain_sim.model.program import Communication, Compute, Item
from vtrain_sim.model.sharding import Shard, backward, backward_of


def mlp_block(shard: Shard) -> tuple[list[Item], list[Item]]:
    """Norm and dense feed-forward block: forward and backward."""
    model = shard.configuration.model
    norm = shard.norm("pre_mlp_layernorm", shard.local_tokens, model.hidden_size)
    forward, back = _dense(shard, model.ffn_hidden_size, "mlp", "linear_fc1", "linear_fc2")
    return [norm, *forward], [*back, backward(norm)]


def _dense(shard: Shard, width: int, name: str, first: str, second: str) -> tuple[list[Item], list[Item]]:
    model = shard.configuration.model
    ffn = width // shard.tp
    gate = 2 if model.swiglu else 1
    fc1 = shard.linear(first, shard.tokens, gate * ffn, model.hidden_size)
    activation = shard.operator("activation", "activation", shard.tokens, ffn)
    fc2 = shard.linear(second, shard.tokens, model.hidden_size, ffn)
    enter, backward_enter = shard.enter(name, first)
    leave, backward_leave = shard.leave(name, second)
    return (
        [*enter, *fc1, activation, *fc2, *leave],
        [
            *backward_leave,
            *backward_of(fc2),
            backward(activation),
            *shard.gather_again(first),
            *backward_of(fc1),
            *backward_enter,
        ],
    )


def moe_block(shard: Shard) -> tuple[list[Item], list[Item]]:
    """Norm, router, dispatch, local experts, combine and shared experts.

    Shapes are those of the busiest expert parallel rank: the others wait for it.
    """
    model, parallel = shard.configuration.model, shard.configuration.parallel
    own = shard.local_tokens * model.moe_router_topk
    # Every expert parallel rank receives as many tokens as it sends, times the imbalance.
    received = round(own * model.moe_imbalance_factor)
    local_experts = model.num_experts // parallel.ep
    gate = 2 if model.swiglu else 1
    row = model.hidden_size * shard.size
    norm = shard.norm("pre_mlp_layernorm", shard.local_tokens, model.hidden_size)
    router = shard.operator("router", "router", shard.local_tokens, model.num_experts, model.hidden_size)
    permute = shard.operator("permute", "permute", own, model.hidden_size)
    rows = received * parallel.etp
    ffn = model.moe_ffn_hidden_size // parallel.etp
    fc1 = shard.linear("experts_fc1", rows, gate * ffn, model.hidden_size, local_experts)
    activation = shard.operator("activation", "activation", rows, ffn)
    fc2 = shard.linear("experts_fc2", rows, model.hidden_size, ffn, local_experts)
    swap: list[Item] = []
    if parallel.ep > 1:
        swap = [Communication("dispatch", "all_to_all", "ep", parallel.ep, received * row)]
    gather: list[Item] = []
    scatter: list[Item] = []
    if parallel.etp > 1:
        gather = [Communication("experts", "all_gather", "etp", parallel.etp, rows * row)]
        scatter = [Communication("experts", "reduce_scatter", "etp", parallel.etp, rows * row)]
    experts: list[Compute] = [*fc1, activation, *fc2]
    forward: list[Item] = [norm, router, permute, *swap, *gather, *experts, *scatter, *swap]
    back: list[Item] = [
        *swap,
        *gather,
        *backward_of(experts),
        *scatter,
        *swap,
        backward(permute),
        backward(router),
        backward(norm),
    ]
    if model.moe_shared_expert_intermediate_size:
        shared, backward_shared = _dense(
            shard, model.moe_shared_expert_intermediate_size, "shared_experts", "shared_fc1", "shared_fc2"
        )
        forward = [*forward, *shared]
        back = [*backward_shared, *back]
    return forward, back


def mlp_parameters(shard: Shard) -> int:
    """Parameters of the dense block on one rank, its norm included."""
    model = shard.configuration.model
    return _norm(shard) + _dense_parameters(shard, model.ffn_hidden_size)


def moe_parameters(shard: Shard) -> tuple[int, int]:
    """Parameters of the mixture on one rank: shared by all data parallel ranks, and the experts'."""
    model, parallel = shard.configuration.model, shard.configuration.parallel
    gate = 2 if model.swiglu else 1
    dense = _norm(shard) + model.hidden_size * model.num_experts
    if model.moe_shared_expert_intermediate_size:
        dense += _dense_parameters(shard, model.moe_shared_expert_intermediate_size)
    ffn = model.moe_ffn_hidden_size // parallel.etp
    return dense, model.num_experts // parallel.ep * (model.hidden_size * ffn * (gate + 1))


def _norm(shard: Shard) -> int:
    model = shard.configuration.model
    return model.hidden_size * (2 if model.normalization == "LayerNorm" else 1)


def _dense_parameters(shard: Shard, width: int) -> int:
    model = shard.configuration.model
    h, ffn, gate = model.hidden_size, width // shard.tp, 2 if model.swiglu else 1
    bias = model.add_bias_linear
    return h * ffn * gate + (ffn * gate if bias else 0) + ffn * h + (h if bias else 0)
