"""Which modules are recorded, under which kind, and which operator each of them is.

Modules are recognised by the classes of Megatron-Core that they derive from where these exist,
else by the name of their class, so that a version that moves a class is still understood.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from vtrain_plugin.adapters.megatron.context import ModelContext
from vtrain_plugin.adapters.megatron.eight_bit import multiplies_in_8_bits
from vtrain_plugin.capture.hooked import ModuleCall
from vtrain_plugin.capture.tensors import dtype_name, rows_and_width
from vtrain_schemas.operators import Operator

if TYPE_CHECKING:
    import torch

# (span kind, is recorded only with operators) by class name, the most specific first.
_BY_CLASS_NAME = {
    "TransformerLayer": ("transformer_layer", False),
    "BaseTransformerLayer": ("transformer_layer", False),
    "Attention": ("self_attention", False),
    "MoELayer": ("moe", False),
    "BaseMoELayer": ("moe", False),
    "MLP": ("mlp", False),
    "MambaLayer": ("mamba_layer", False),
    "MambaMixer": ("mixer", False),
    "MultiTokenPredictionLayer": ("mtp_layer", False),
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
# The same by the name that a layer gives a part whose class is none of these: a new kind of attention, for example.
_BY_NAME = {
    "self_attention": ("mixer", False),
    "mixer": ("mixer", False),
    "core_attention": ("core_attention", True),
}
# Classes of a part that a layer does without.
_ABSENT = ("IdentityOp", "IdentityFuncOp")
_DOT_PRODUCT = ("DotProductAttention", "TEDotProductAttention")

LAYERS = ("transformer_layer", "mamba_layer", "mtp_layer")


def span_kind(path: str, module: torch.nn.Module, operators: bool) -> str | None:
    """Span kind of a module, or None where it is not recorded."""
    name = path.rpartition(".")[2]
    classes = _class_names(module)
    known = next((_BY_CLASS_NAME[cls] for cls in classes if cls in _BY_CLASS_NAME), None)
    if known is not None and name == "output_layer":
        return "output_layer"
    if known is None and classes[0] not in _ABSENT:
        known = _BY_NAME.get(name)
    if known is None:
        return None
    kind, only_operators = known
    return kind if operators or not only_operators else None


def _class_names(module: torch.nn.Module | None) -> list[str]:
    """Names of the classes that a module derives from, its own first."""
    return [cls.__name__ for cls in type(module).__mro__]


def operator_of(call: ModuleCall, output: torch.Tensor | None, context: ModelContext) -> Operator | None:
    """The operator that a module is, less what its own recorded children are."""
    describe = _DESCRIBE.get(call.kind)
    if describe is None or call.tensor_in is None or output is None:
        return None
    return describe(call, call.tensor_in, output, context)


# What describes a call: its first input and output tensors, and what is known of the model.
_Describe: TypeAlias = "Callable[[ModuleCall, torch.Tensor, torch.Tensor, ModelContext], Operator | None]"


def _linear(call: ModuleCall, tensor: torch.Tensor, output: torch.Tensor, context: ModelContext) -> Operator:
    module = call.hooked.module
    dtype = "float8" if multiplies_in_8_bits(module) else dtype_name(output.dtype)
    tokens_in, k = rows_and_width(tensor)
    tokens_out, n = rows_and_width(output)
    # With sequence parallelism one side is sharded; the multiplication runs on all tokens.
    m = max(tokens_in, tokens_out)
    names = _class_names(module)
    if "TEGroupedLinear" in names:
        experts = int(getattr(module, "num_gemms", 1))
        return Operator("grouped_gemm", "forward", m, n, k, batch=experts, dtype=dtype)
    fused = any("LayerNorm" in name for name in names)
    return Operator("gemm", "forward", m, n, k, dtype=dtype, fused=fused)


def _norm(call: ModuleCall, tensor: torch.Tensor, output: torch.Tensor, context: ModelContext) -> Operator:
    m, n = rows_and_width(tensor)
    return Operator("norm", "forward", m, n, dtype=dtype_name(output.dtype))


def _router(call: ModuleCall, tensor: torch.Tensor, output: torch.Tensor, context: ModelContext) -> Operator:
    m, k = rows_and_width(tensor)
    experts = int(getattr(context.config, "num_moe_experts", 0) or 0)
    return Operator("router", "forward", m, experts, k, dtype=dtype_name(output.dtype))


def _layer(call: ModuleCall, tensor: torch.Tensor, output: torch.Tensor, context: ModelContext) -> Operator:
    m, n = rows_and_width(tensor)
    return Operator("bias_dropout_add", "forward", m, n, dtype=dtype_name(output.dtype))


def _self_attention(call: ModuleCall, tensor: torch.Tensor, output: torch.Tensor, context: ModelContext) -> Operator:
    qkv = call.hooked.last_of("linear_qkv")
    m, n = (qkv.m, qkv.n) if qkv is not None else rows_and_width(tensor)
    return Operator("rope", "forward", m, n, dtype=dtype_name(output.dtype))


def _other(call: ModuleCall, tensor: torch.Tensor, output: torch.Tensor, context: ModelContext) -> Operator:
    """Work that no kind of operator describes: what remains of a module is neither modelled nor lost."""
    m, n = rows_and_width(output)
    return Operator("other", "forward", m, n, dtype=dtype_name(output.dtype))


def _mlp(call: ModuleCall, tensor: torch.Tensor, output: torch.Tensor, context: ModelContext) -> Operator:
    fc1, fc2 = call.hooked.last_of("linear_fc1"), call.hooked.last_of("linear_fc2")
    if fc1 is None or fc2 is None:
        # All of it is one fused operation, its products included.
        return _other(call, tensor, output, context)
    return Operator("activation", "forward", fc1.m, fc2.k, dtype=dtype_name(output.dtype))


def _experts(call: ModuleCall, tensor: torch.Tensor, output: torch.Tensor, context: ModelContext) -> Operator:
    m, n = rows_and_width(tensor)
    experts_per_token = int(getattr(context.config, "moe_router_topk", 1))
    return Operator("permute", "forward", m * experts_per_token, n, dtype=dtype_name(output.dtype))


def _embedding(call: ModuleCall, tensor: torch.Tensor, output: torch.Tensor, context: ModelContext) -> Operator:
    _, n = rows_and_width(output)
    module = call.hooked.module
    weight = next(iter(module.parameters()), None) if module is not None else None
    rows = int(weight.shape[0]) if weight is not None else 0
    return Operator("embedding", "forward", int(tensor.numel()), n, rows, dtype=dtype_name(output.dtype))


def _attention(call: ModuleCall, tensor: torch.Tensor, output: torch.Tensor, context: ModelContext) -> Operator | None:
    if not any(name in _DOT_PRODUCT for name in _class_names(call.hooked.module)):
        return _other(call, tensor, output, context)
    query, key = call.args[0], call.args[1]
    if query.dim() == 4:  # [s, b, heads, head_dim]
        seq_q, batch, heads, head_dim = (int(d) for d in query.shape)
        seq_kv, kv_heads = int(key.shape[0]), int(key.shape[2])
    elif query.dim() == 3:  # packed sequences, [tokens, heads, head_dim]
        seq_q, heads, head_dim = (int(d) for d in query.shape)
        batch, seq_kv, kv_heads = 1, int(key.shape[0]), int(key.shape[1])
    else:
        return None
    return Operator(
        "attention",
        "forward",
        batch=batch,
        seq_q=seq_q,
        seq_kv=seq_kv,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        dtype=dtype_name(output.dtype),
        fused=type(call.hooked.module).__name__.startswith("TE"),
        causal=_is_causal(call.hooked.module),
    )


def _is_causal(attention: object) -> bool:
    """Whether a core attention masks later tokens: "causal" or "padding_causal", Megatron's enum or its name."""
    mask = getattr(attention, "attn_mask_type", "causal")
    return "causal" in str(getattr(mask, "name", mask))


_DESCRIBE: dict[str, _Describe] = {
    "linear": _linear,
    "output_layer": _linear,
    "norm": _norm,
    "core_attention": _attention,
    "router": _router,
    "transformer_layer": _layer,
    "mamba_layer": _layer,
    "mtp_layer": _other,
    "mixer": _other,
    "self_attention": _self_attention,
    "mlp": _mlp,
    "moe": _experts,
    "embedding": _embedding,
}
