"""Mixture of experts: router, projection to a latent width, dispatch, local experts, combine, shared experts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from vtrain_sim.model.dispatchers import Exchange, Routing, dispatcher
from vtrain_sim.model.feedforward import gated_mlp
from vtrain_sim.model.program import Communication, Compute, Item, Wait
from vtrain_sim.model.shard import Region, Shard, backward, backward_of

# Part of a permutation's time that compute beside it loses: assumption, since both need the memory.
_NOT_HIDDEN = 0.5


def moe_block(shard: Shard) -> Region:
    """Norm, router, dispatch, local experts, combine and shared experts.

    Shapes are those of the busiest expert parallel rank: the others wait for it.
    """
    model, routing = shard.model, _routing(shard)
    norm = shard.norm("pre_mlp_layernorm", shard.local_tokens, model.hidden_size)
    # The router's input is the permutation's too.
    router = shard.operator(
        "router",
        "router",
        shard.local_tokens,
        model.num_experts,
        model.hidden_size,
        parameters=(model.hidden_size + model.add_bias_linear) * model.num_experts,
    ).replicated()
    # Where tokens go (a map and probabilities of all experts in 32 bits) and the probabilities in the order of the
    # experts, which weigh what their activations make: what experts put out is not needed again (Megatron-Core 0.12).
    kept = shard.local_tokens * model.num_experts * (4 + 1) + routing.expert_rows * 4
    rule = dispatcher(shard.spec.moe_token_dispatcher)
    rows = rule.permuted_rows(routing)
    permute = shard.operator("permute", "permute", rows, model.expert_width, saves=kept)
    overlaps = shard.spec.overlap_moe_comm
    if overlaps and rule.permutes:
        permute = replace(permute, share=_NOT_HIDDEN)
    # The host needs to know how many tokens each expert gets before it launches what is sized by them, unless that is
    # their capacity; beside another microbatch the device has that one's work meanwhile.
    permute = replace(permute, host_waits=not (overlaps or model.moe_pad_expert_input_to_capacity))
    compute = _experts(shard)
    down, up = _latent(shard)
    routed, backward_routed = _beside_shared(shard, _exchanges(shard), compute, up)
    block: Region = (
        [norm, router, *_drop(shard), *down, permute, *routed],
        [*backward_routed, backward(permute), *backward_of(down), backward(router), backward(norm)],
    )
    return shard.norm_after("post_mlp_layernorm", block)


def _latent(shard: Shard) -> tuple[list[Compute], list[Compute]]:
    """Projections of each token to the experts' width and back; every tensor parallel rank has all of them."""
    model, rows = shard.model, shard.local_tokens
    width, h = model.moe_latent_size, model.hidden_size
    if not width:
        return [], []
    # Unless it is cast, the router keeps its input anyway.
    copy = None if shard.spec.precision.casts_inputs else 0
    bias = model.add_bias_linear
    down = shard.linear("fc1_latent_proj", rows, width, h, bias=bias, saves=copy)
    up = shard.linear("fc2_latent_proj", rows, h, width, bias=bias)
    return [item.replicated() for item in down], [item.replicated() for item in up]


def _routing(shard: Shard) -> Routing:
    """The tokens of a microbatch, seen from the busiest expert parallel rank."""
    model, spec = shard.model, shard.spec
    return Routing(
        shard.local_tokens,
        model.moe_router_topk,
        model.expert_width * shard.size,
        model.num_experts,
        spec.ep.size,
        spec.expert_tp.size,
        model.moe_imbalance_factor,
        model.routed_share,
        _capacity(shard),
        model.moe_pad_expert_input_to_capacity,
    )


def _capacity(shard: Shard) -> int:
    """Rows of one expert from one rank at most (Megatron-Core's `get_capacity`), which has no token twice; 0: all."""
    model, tokens = shard.model, shard.local_tokens
    average = tokens * model.moe_router_topk / model.num_experts
    return min(tokens, math.ceil(average * model.moe_expert_capacity_factor))


def _drop(shard: Shard) -> list[Compute]:
    """The choice of each expert's rows among all tokens, by their probabilities in 32 bits."""
    if not shard.model.moe_expert_capacity_factor:
        return []
    drop = shard.operator("token_drop", "permute", shard.local_tokens, shard.model.num_experts, saves=0)
    return [replace(drop, operator=replace(drop.operator, dtype="float32"))]


def _experts(shard: Shard) -> list[Compute]:
    model, spec = shard.model, shard.spec
    gates = 2 if model.swiglu else 1
    rows = _routing(shard).expert_rows
    ffn = model.moe_ffn_hidden_size // spec.expert_tp.size
    local = model.num_experts // spec.ep.size
    clamps = model.quick_geglu and model.activation_func_clamp_value and not spec.fused_experts

    pads = spec.precision.casts_inputs and not (spec.pads_routing or dispatcher(spec.moe_token_dispatcher).permutes)

    def experts(rows: int, count: int) -> list[Compute]:
        bias, width = model.add_bias_linear, model.expert_width
        pad, unpad = (
            [shard.operator(f"experts_{n}", "pad_rows", rows, width, saves=0)] * pads for n in ("pad", "unpad")
        )
        fc1 = shard.expert_linear("experts_fc1", rows, gates * ffn, width, count, bias=bias)
        bounds = [shard.operator("clamp", "clamp", rows, gates * ffn)] if clamps else []
        activation = shard.operator("activation", "activation", rows, ffn)
        fc2 = shard.expert_linear("experts_fc2", rows, width, ffn, count, bias=bias)
        # The first one's goes into its product; the second one's is weighted as its rows are.
        weighs = bias and not spec.fused_experts
        added = [shard.operator("experts_bias", "expert_bias", rows, width, count, saves=0)] if weighs else []
        return [*pad, *fc1, *bounds, activation, *fc2, *added, *unpad]

    if spec.moe_grouped_gemm:
        return experts(rows, local)
    # One after the other, each with its part of the tokens, and of what the layer of them takes the host.
    one = [
        replace(item, host_share=1 / local) if item.expert_parameters else item
        for item in experts(-(-rows // local), 1)
    ]
    return one * local


@dataclass(frozen=True)
class _Exchanges:
    """Communication around the experts: forward before and after them, and the same of the backward pass."""

    dispatch: list[Item]
    combine: list[Item]
    combine_backward: list[Item]
    dispatch_backward: list[Item]


def _exchanges(shard: Shard) -> _Exchanges:
    spec, routing = shard.spec, _routing(shard)
    rule = dispatcher(spec.moe_token_dispatcher)
    groups = {group.role: group for group in (spec.ep, spec.expert_tp, spec.tp_ep)}

    def items(name: str, exchanges: list[Exchange]) -> list[Item]:
        blocking = not _overlaps(shard)
        return [Communication(name, e.op, groups[e.role], e.bytes, blocking, delivery=e.delivery) for e in exchanges]

    return _Exchanges(
        items("dispatch", rule.dispatch(routing)),
        items("combine", rule.combine(routing)),
        items("dispatch", rule.combine_backward(routing)),
        items("combine", rule.dispatch_backward(routing)),
    )


def _overlaps(shard: Shard) -> bool:
    return shard.spec.moe_shared_expert_overlap and shard.model.moe_shared_expert_intermediate_size > 0


def _shared_gate(shard: Shard) -> list[Compute]:
    """The shared experts' output times the sigmoid of a product of each token's hidden state with one vector."""
    if not shard.model.moe_shared_expert_gate:
        return []
    rows, hidden = shard.local_tokens, shard.model.hidden_size
    saves = rows * hidden * shard.size
    gate = shard.operator("shared_gate", "activation", rows, hidden, parameters=hidden, saves=saves)
    return [gate.replicated()]


def _beside_shared(shard: Shard, around: _Exchanges, compute: list[Compute], up: list[Compute]) -> Region:
    """Dispatch, experts and combine, with the shared experts after them or beside the two exchanges.

    up: projection of what was combined; never with shared experts beside the exchanges.
    """
    forward: list[Item] = [*around.dispatch, *compute, *around.combine, *up]
    backward_: list[Item] = [
        *backward_of(up),
        *around.combine_backward,
        *backward_of(compute),
        *around.dispatch_backward,
    ]
    width = shard.model.moe_shared_expert_intermediate_size
    if not width:
        return forward, backward_
    enter, leave = gated_mlp(shard, width, "shared_experts", ("shared_fc1", "shared_fc2"), 0)
    gate = _shared_gate(shard)
    leave = [*leave[0], *gate], [*backward_of(gate), *leave[1]]
    if not _overlaps(shard):
        return [*forward, *enter[0], *leave[0]], [*leave[1], *enter[1], *backward_]
    dispatched, combined = Wait("dispatch"), Wait("combine")
    return (
        [*around.dispatch, *enter[0], dispatched, *compute, *around.combine, *leave[0], combined],
        [
            *around.combine_backward,
            *leave[1],
            dispatched,
            *backward_of(compute),
            *around.dispatch_backward,
            *enter[1],
            combined,
        ],
    )
