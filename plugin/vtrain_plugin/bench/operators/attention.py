"""Core attention: in one kernel, or as Megatron-Core's batched products around a masked softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

from vtrain_plugin.bench.operators.workbench import Attributes, Variant, Workbench, register
from vtrain_schemas.operators import Operator

_Softmax: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"


@register("attention")
def attention(bench: Workbench, operator: Operator) -> list[Variant]:
    """As the operator says whether it is fused."""
    if not operator.fused:
        return _separate(bench, operator)
    return _engine(bench, operator) if bench.choices.transformer_engine else _sdpa(bench, operator)


def _widths(bench: Workbench, operator: Operator) -> tuple[int, int]:
    """Channels of a head's queries and keys, and of its values."""
    if bench.model.multi_latent_attention:
        return bench.model.latent_query_dim, bench.model.v_head_dim
    return operator.head_dim, operator.head_dim


def _sdpa(bench: Workbench, operator: Operator) -> list[Variant]:
    """PyTorch's fused kernels, [b, heads, s, channels]."""
    sdpa = torch.nn.functional.scaled_dot_product_attention
    keys, values = _widths(bench, operator)
    q = bench.tensor(operator, operator.batch, operator.heads, operator.seq_q, keys, grad=True)
    k, v = (
        bench.tensor(operator, operator.batch, operator.kv_heads, operator.seq_kv, width, grad=True)
        for width in (keys, values)
    )
    options = {"enable_gqa": True} if operator.kv_heads != operator.heads else {}
    return bench.forward_and_backward(
        operator, lambda: sdpa(q, k, v, is_causal=operator.causal, **options), (q, k, v), {"implementation": "torch"}
    )


def _engine(bench: Workbench, operator: Operator) -> list[Variant]:
    """Transformer Engine's choice of kernel, [s, b, heads, channels] as Megatron-Core gives it."""
    engine = bench.have.transformer_engine
    assert engine is not None
    keys, values = _widths(bench, operator)
    module = engine.DotProductAttention(
        operator.heads,
        (keys, values) if keys != values else keys,
        num_gqa_groups=operator.kv_heads,
        attention_dropout=bench.choices.attention_dropout,
        qkv_format="sbhd",
        attn_mask_type="causal" if operator.causal else "no_mask",
    )
    q = bench.tensor(operator, operator.seq_q, operator.batch, operator.heads, keys, grad=True)
    k, v = (
        bench.tensor(operator, operator.seq_kv, operator.batch, operator.kv_heads, width, grad=True)
        for width in (keys, values)
    )
    how: Attributes = {
        "implementation": "transformer_engine",
        "attention_dropout": bench.choices.attention_dropout,
    }
    return bench.forward_and_backward(operator, lambda: module(q, k, v), (q, k, v), how)


def _separate(bench: Workbench, operator: Operator) -> list[Variant]:
    """Scores, scaled and masked softmax, dropout, sum: [b x heads, s, channels]."""
    problems = operator.batch * operator.heads
    repeats = operator.heads // operator.kv_heads
    keys, values = _widths(bench, operator)
    q = bench.tensor(operator, problems, operator.seq_q, keys, grad=True)
    k, v = (bench.tensor(operator, problems // repeats, operator.seq_kv, width, grad=True) for width in (keys, values))
    softmax, fused = _softmax(bench, operator)
    dropout, shape = bench.choices.attention_dropout, (operator.batch, operator.heads, operator.seq_q, operator.seq_kv)

    def forward() -> torch.Tensor:
        each_k, each_v = (k, v) if repeats == 1 else (t.repeat_interleave(repeats, dim=0) for t in (k, v))
        scores = torch.baddbmm(q.new_empty(1), q, each_k.transpose(1, 2), beta=0.0, alpha=keys**-0.5)
        weights = torch.nn.functional.dropout(softmax(scores.view(shape)), dropout, dropout > 0)
        return torch.bmm(weights.view(scores.shape), each_v)

    how: Attributes = {
        "implementation": "megatron" if fused else "torch",
        "masked_softmax_fusion": fused,
        "attention_dropout": dropout,
    }
    return bench.forward_and_backward(operator, forward, (q, k, v), how)


def _softmax(bench: Workbench, operator: Operator) -> tuple[_Softmax, bool]:
    """Masked softmax of scores [b, heads, s, s], and whether it is one kernel."""
    if not (bench.choices.masked_softmax_fusion and operator.causal):
        return _eager_softmax(bench, operator), False
    from megatron.core.fusions.fused_softmax import FusedScaleMaskSoftmax
    from megatron.core.transformer.enums import AttnMaskType
    from megatron.core.transformer.utils import attention_mask_func

    module = FusedScaleMaskSoftmax(
        input_in_fp16=operator.dtype == "float16",
        input_in_bf16=operator.dtype == "bfloat16",
        attn_mask_type=AttnMaskType.causal,
        scaled_masked_softmax_fusion=True,
        mask_func=attention_mask_func,
        softmax_in_fp32=True,
        scale=None,
    )
    sizes = (operator.batch, operator.heads, operator.seq_q, operator.seq_kv)
    # It knows the shapes that the kernel is there for.
    return lambda scores: module(scores, None), bool(module.is_kernel_available(None, *sizes))


def _eager_softmax(bench: Workbench, operator: Operator) -> _Softmax:
    mask = torch.ones(operator.seq_q, operator.seq_kv, dtype=torch.bool, device=bench.device.device)
    mask = mask.triu(1)

    def softmax(scores: torch.Tensor) -> torch.Tensor:
        if operator.causal:
            scores = scores.masked_fill(mask, -10000.0)
        return torch.softmax(scores.float(), dim=-1).to(scores.dtype)

    return softmax
