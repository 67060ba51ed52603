"""Which modules are recorded, under which kind, and which operator each of them is.

Modules are recognised by the classes of Megatron-Core that they derive from where these exist,
else by the name of their class, so that a version that moves a class is still understood.
"""

from __future__ import annotations

from typing import Any

from vtrain_plugin.adapters.megatron.context import ModelContext, dtype_name
from vtrain_schemas.operators import Operator

# (span kind, is recorded only with operators) by class name, the most specific first.
_BY_CLASS_NAME = {
    "TransformerLayer": ("transformer_layer", False),
    "BaseTransformerLayer": ("transformer_layer", False),
    "Attention": ("self_attention", False),
    "MoELayer": ("moe", False),
    "BaseMoELayer": ("moe", False),
    "MLP": ("mlp", False),
    "LanguageModelEmbedding": ("embedding", False),
    "Router": ("router", True),
    "TopKRouter": ("router", True),
    "GroupedMLP": ("mlp", False),
    "TEGroupedMLP": ("mlp", False),
    "DotProductAttention": ("core_attention", True),
    "TEDotProductAttention": ("core_attention", True),
    "ColumnParallelLinear": ("linear", True),
    "RowParallelLinear": ("linear", True),
    "TELinear": ("linear", True),
    "TELayerNormColumnParallelLinear": ("linear", True),
    "TEGroupedLinear": ("linear", True),
    "LayerNorm": ("norm", True),
    "RMSNorm": ("norm", True),
    "FusedLayerNorm": ("norm", True),
    "L2Norm": ("norm", True),
}


def span_kind(path: str, module: Any, operators: bool) -> str | None:
    """Span kind of a module, or None where it is not recorded."""
    for cls in type(module).__mro__:
        found = _BY_CLASS_NAME.get(cls.__name__)
        if found is None:
            continue
        kind, only_operators = found
        if path.rpartition(".")[2] == "output_layer":
            return "output_layer"
        return kind if operators or not only_operators else None
    return None


def rows_and_width(tensor: Any) -> tuple[int, int]:
    """Tokens and width of an activation [..., width]."""
    width = int(tensor.shape[-1])
    return int(tensor.numel()) // max(1, width), width


def operator_of(
    kind: str, hooked: Any, tensor_in: Any, tensor_out: Any, args: tuple[Any, ...], context: ModelContext
) -> Operator | None:
    """The operator that a module is, less what its own recorded children are."""
    if tensor_in is None or tensor_out is None:
        return None
    dtype = dtype_name(tensor_out.dtype)
    if kind in ("linear", "output_layer"):
        tokens_in, k = rows_and_width(tensor_in)
        tokens_out, n = rows_and_width(tensor_out)
        # With sequence parallelism one side is sharded; the multiplication runs on all tokens.
        m = max(tokens_in, tokens_out)
        names = [cls.__name__ for cls in type(hooked.module).__mro__]
        if "TEGroupedLinear" in names:
            experts = int(getattr(hooked.module, "num_gemms", 1))
            return Operator("grouped_gemm", "forward", m, n, k, batch=experts, dtype=dtype)
        fused = "layernorm" if any("LayerNorm" in name for name in names) else ""
        return Operator("gemm", "forward", m, n, k, dtype=dtype, fused=fused)
    if kind == "norm":
        m, n = rows_and_width(tensor_in)
        return Operator("norm", "forward", m, n, dtype=dtype)
    if kind == "core_attention":
        return _attention(hooked, args, dtype)
    if kind == "router":
        m, k = rows_and_width(tensor_in)
        return Operator("router", "forward", m, int(context.config.num_moe_experts), k, dtype=dtype)
    if kind == "transformer_layer":
        m, n = rows_and_width(tensor_in)
        return Operator("bias_dropout_add", "forward", m, n, dtype=dtype)
    if kind == "self_attention":
        qkv = hooked.last_of("linear_qkv")
        m, n = (qkv.m, qkv.n) if qkv is not None else rows_and_width(tensor_in)
        return Operator("rope", "forward", m, n, dtype=dtype)
    if kind == "mlp":
        fc1, fc2 = hooked.last_of("linear_fc1"), hooked.last_of("linear_fc2")
        if fc1 is None or fc2 is None:
            return None
        return Operator("activation", "forward", fc1.m, fc2.k, dtype=dtype)
    if kind == "moe":
        m, n = rows_and_width(tensor_in)
        return Operator("permute", "forward", m * int(context.config.moe_router_topk), n, dtype=dtype)
    if kind == "embedding":
        m, n = rows_and_width(tensor_out)
        weight = next(iter(hooked.module.parameters()), None)
        rows = int(weight.shape[0]) if weight is not None else 0
        return Operator("embedding", "forward", int(tensor_in.numel()), n, rows, dtype=dtype)
    return None


def _attention(hooked: Any, args: tuple[Any, ...], dtype: str) -> Operator | None:
    query, key = args[0], args[1]
    if query.dim() == 4:  # [s, b, heads, head_dim]
        seq_q, batch, heads, head_dim = (int(d) for d in query.shape)
        seq_kv, kv_heads = int(key.shape[0]), int(key.shape[2])
    elif query.dim() == 3:  # packed sequences, [tokens, heads, head_dim]
        seq_q, heads, head_dim = (int(d) for d in query.shape)
        batch, seq_kv, kv_heads = 1, int(key.shape[0]), int(key.shape[1])
    else:
        return None
    flash = "flash" if type(hooked.module).__name__.startswith("TE") else ""
    return Operator(
        "attention",
        "forward",
        batch=batch,
        seq_q=seq_q,
        seq_kv=seq_kv,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        dtype=dtype,
        fused=flash,
    )
