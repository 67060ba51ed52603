"""FLOPs of the model, as Megatron-LM counts them, and those that ranks execute.

Model FLOPs are a property of the model and its tokens: how the model is sharded, recomputed or how evenly its experts
are loaded does not change them. They are what MFU and Megatron's log line "throughput per GPU (TFLOP/s/GPU)" are made
of (which of sliding windows counts the whole square in some versions). Megatron-LM counts
(`num_floating_point_operations`) two FLOPs for a multiply-add, three passes (forward, data gradient, weight
gradient), half of the square of causal attention, the experts that a token is routed to with the projections to
their latent width, the shared experts, the scan of Mamba layers and the logits; not the router, nor what is element by
element.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from vtrain_schemas.operators import Operator, kind
from vtrain_sim.specs import ModelSpec
from vtrain_sim.specs.hybrid_pattern import ATTENTION, EXPERTS, MAMBA, MLP

# Forward, data gradient and weight gradient.
_PASSES = 3
_PER_MULTIPLY_ADD = 2


def model_flops(model: ModelSpec, sequences: int, tp: int = 1) -> float:
    """FLOPs of one training step over so many sequences, forward and backward, without recomputation.

    tp: tensor parallel size, to whose multiple Megatron pads the vocabulary.
    """
    return sequences * model.seq_length * flops_per_token(model, tp)


@lru_cache(maxsize=4096)
def flops_per_token(model: ModelSpec, tp: int = 1) -> float:
    """Model FLOPs per training token, forward and backward."""
    # A depth of multi-token prediction has layers, a projection and logits of its own.
    depths = model.mtp_num_layers
    layers = _layers(model)
    multiply_adds = (
        layers.attention * _attention(model)
        - layers.windowed * _outside_window(model)
        + layers.dense * _feed_forward(model, model.ffn_hidden_size)
        + layers.mixtures * _experts(model)
        + layers.mamba * _mamba(model)
        + layers.linear * _delta_net(model)
        + depths * 2 * model.hidden_size**2
        + (1 + depths) * model.hidden_size * model.padded_vocab_size(tp)
    )
    return float(_PASSES * _PER_MULTIPLY_ADD * multiply_adds)


@lru_cache(maxsize=4096)
def head_in_layers(model: ModelSpec) -> float:
    """FLOPs of the logits, with the depths of multi-token prediction beside them, over those of a mean layer."""
    depths = model.mtp_num_layers
    logits = (1 + depths) * model.hidden_size * model.padded_vocab_size(1) + depths * 2 * model.hidden_size**2
    whole = flops_per_token(model) / (_PASSES * _PER_MULTIPLY_ADD)
    layer = (whole - logits) / (model.num_layers + depths)
    return logits / layer + depths


@dataclass(frozen=True)
class _Layers:
    """How many blocks of each kind a model has, those of multi-token prediction too. windowed: of the attention.
    linear: gated delta nets."""

    attention: int
    dense: int
    mixtures: int
    mamba: int = 0
    windowed: int = 0
    linear: int = 0


def _layers(model: ModelSpec) -> _Layers:
    if model.symbols:
        return _Layers(*(model.symbols.count(symbol) for symbol in (ATTENTION, MLP, EXPERTS, MAMBA)))
    # A depth has a layer of the last one's kind.
    depths = model.mtp_num_layers
    mixtures = sum(model.moe_layers) + depths * model.moe_layers[-1]
    windowed = sum(model.windowed_layers) + depths * model.windowed_layers[-1]
    layers = model.num_layers + depths
    linear = sum(model.linear_layers) + depths * model.linear_layers[-1]
    return _Layers(layers - linear, layers - mixtures, mixtures, windowed=windowed, linear=linear)


def executed_flops(operator: Operator, model: ModelSpec) -> float:
    """FLOPs of a matrix product or attention, on the mean of the ranks; 0 for any other operator.

    An operator on routed tokens has the rows of the busiest rank, `busiest_share` times the mean.
    """
    record = kind(operator.kind)
    if not record.matrix_product:
        return 0.0
    return operator.flops() / (model.busiest_share if record.routed else 1.0)


def _attention(model: ModelSpec) -> float:
    """Multiply-adds per token of one attention block: projections, and half of the square of scores and sums, of
    each of the samples that are packed.

    Megatron-LM adds one per compressed channel for the norms of latent attention (0.001% of a model): left out.
    """
    heads, h = model.num_attention_heads, model.hidden_size
    if model.multi_latent_attention:
        key = model.qk_head_dim + model.qk_pos_emb_head_dim
        projections = _latent_projections(model)
        scores_and_sums = heads * (key + model.v_head_dim)
    else:
        projections = h * model.qkv_width + model.attention_width * h
        scores_and_sums = 2 * model.attention_width
    return projections + scores_and_sums * model.attended_length / 2


def _outside_window(model: ModelSpec) -> float:
    """Multiply-adds per token of scores and sums that a sliding window leaves out of half of the square."""
    s = model.attended_length
    window = min(model.window_size, s)
    # The first tokens have fewer before them than the window has.
    seen = window - window**2 / (2 * s)
    return 2 * model.attention_width * (s / 2 - seen)


def _latent_projections(model: ModelSpec) -> int:
    """Down- and up-projections of queries, keys and values, and the output (DeepSeek-V2, arXiv:2405.04434, 2.1)."""
    heads, h = model.num_attention_heads, model.hidden_size
    query = heads * (model.qk_head_dim + model.qk_pos_emb_head_dim)
    queries = model.q_lora_rank * (h + query) if model.q_lora_rank else h * query
    keys_and_values = model.kv_lora_rank * (h + heads * (model.qk_head_dim + model.v_head_dim))
    return queries + keys_and_values + h * model.qk_pos_emb_head_dim + model.attention_width * h


def _mamba(model: ModelSpec) -> float:
    """Multiply-adds per token of a Mamba block: projections, and Megatron-LM's seven FLOPs for each channel and state.

    Megatron-LM takes twice the hidden size for the channels, whatever the heads are: here they are what they are.
    """
    channels, states = model.mamba_width, model.mamba_state_dim
    width = 2 * channels + 2 * model.mamba_num_groups * states + model.mamba_num_heads
    return model.hidden_size * (width + channels) + 7 * channels * states / _PER_MULTIPLY_ADD


def _delta_net(model: ModelSpec) -> float:
    """Multiply-adds per token of a gated delta net: projections, convolution, and four times a head's state.

    Megatron-LM takes the square of a head's values for its state, whatever its keys are: here it is what it is.
    """
    keys = model.linear_num_key_heads * model.linear_key_head_dim
    heads, channels = model.linear_num_value_heads, model.linear_value_head_dim
    values = heads * channels
    projections = model.hidden_size * (2 * keys + 3 * values + 2 * heads)
    return projections + model.linear_conv_kernel_dim * (2 * keys + values) + 4 * values * model.linear_key_head_dim


def _feed_forward(model: ModelSpec, width: int) -> int:
    """Multiply-adds per token of a dense block: two products, three with a gate."""
    return model.hidden_size * width * (3 if model.swiglu else 2)


def _experts(model: ModelSpec) -> int:
    """Multiply-adds per token of a mixture: the experts that it is routed to, and the shared ones."""
    products = 3 if model.swiglu else 2
    routed = products * model.expert_width * model.moe_router_topk * model.moe_ffn_hidden_size
    projections = 2 * model.hidden_size * model.moe_latent_size
    return routed + projections + _feed_forward(model, model.moe_shared_expert_intermediate_size)
