"""What a framework operator is, by its name and the shapes of its inputs, as torch.profiler records them.

``dims`` is one list per argument: sizes of a tensor, a list of such lists for a list of tensors, or an
empty list for anything else. ``types`` are PyTorch's names of element types.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, TypeAlias

from vtrain_schemas.name_rules import Rule, first_match
from vtrain_schemas.operators import Operator

# Input sizes as the profiler writes them, JSON: what fits no shape is found out by trying.
Dims: TypeAlias = Sequence[Any]

DTYPES = {
    "float": "float32", "double": "float64", "c10::bfloat16": "bfloat16", "bfloat16": "bfloat16",
    "c10::half": "float16", "half": "float16", "int": "int32", "long": "int64", "long int": "int64",
    "short": "int16", "char": "int8", "signed char": "int8", "byte": "uint8", "unsigned char": "uint8",
    "bool": "bool",
}  # fmt: skip

# The first two or the last two tensors are the factors.
_PRODUCTS = {
    "aten::mm": 0, "aten::addmm": 1, "aten::_addmm_activation": 1, "aten::bmm": 0, "aten::baddbmm": 1,
    "aten::_scaled_mm": 0, "aten::_int_mm": 0, "mkl::_mkl_linear": -1, "mkldnn::_linear_pointwise": -1,
    "aten::mkldnn_linear": -1, "aten::linear": -1,
}  # fmt: skip
# Transformer Engine's autograd functions, and whether they normalise their input: the weight is the first tensor that
# is a matrix of the input's width.
_TE_LINEAR = {"_Linear": False, "_LayerNormLinear": True}
# Position of the query, and whether sequence goes before heads ("s"), after ("h"), or tokens are packed ("t").
_ATTENTION = {
    "aten::scaled_dot_product_attention": (0, "h", "forward"),
    "aten::_scaled_dot_product_attention_math": (0, "h", "forward"),
    "aten::_scaled_dot_product_flash_attention": (0, "h", "forward"),
    "aten::_scaled_dot_product_efficient_attention": (0, "h", "forward"),
    "aten::_scaled_dot_product_cudnn_attention": (0, "h", "forward"),
    "aten::_scaled_dot_product_flash_attention_for_cpu": (0, "h", "forward"),
    "aten::_scaled_dot_product_flash_attention_backward": (1, "h", "backward"),
    "aten::_scaled_dot_product_efficient_attention_backward": (1, "h", "backward"),
    "aten::_scaled_dot_product_cudnn_attention_backward": (1, "h", "backward"),
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": (1, "h", "backward"),
    "aten::_flash_attention_forward": (0, "s", "forward"),
    "aten::_flash_attention_backward": (1, "s", "backward"),
    "aten::_efficient_attention_forward": (0, "s", "forward"),
    "aten::_efficient_attention_backward": (1, "s", "backward"),
    "flash_attn::_flash_attn_forward": (0, "s", "forward"),
    "flash_attn::_flash_attn_backward": (1, "s", "backward"),
    "flash_attn::_flash_attn_varlen_forward": (0, "t", "forward"),
    "flash_attn::_flash_attn_varlen_backward": (1, "t", "backward"),
    "FlashAttnFunc": (0, "s", "forward"),
    "FlashAttnVarlenFunc": (0, "t", "forward"),
}  # fmt: skip
# Where a call says whether it masks what comes later: causal attention does half of the work.
_CAUSAL = {
    "aten::scaled_dot_product_attention": 5, "aten::_scaled_dot_product_flash_attention": 4,
    "aten::_scaled_dot_product_efficient_attention": 6, "aten::_scaled_dot_product_cudnn_attention": 6,
    "aten::_scaled_dot_product_flash_attention_for_cpu": 4, "aten::_flash_attention_forward": 8,
    "aten::_flash_attention_backward": 11, "aten::_scaled_dot_product_flash_attention_backward": 11,
    "flash_attn::_flash_attn_forward": 5,
}  # fmt: skip
_NORMS = {
    "aten::native_layer_norm": (0, "forward"), "aten::_fused_rms_norm": (0, "forward"),
    "aten::rms_norm": (0, "forward"), "aten::native_layer_norm_backward": (1, "backward"),
    "aten::_fused_rms_norm_backward": (1, "backward"), "FusedLayerNormAffineFunction": (0, "forward"),
    "FusedRMSNormAffineFunction": (0, "forward"), "FastLayerNormFN": (0, "forward"),
}  # fmt: skip
_UPDATES = ("aten::_fused_adamw_", "aten::_fused_adam_", "aten::_fused_sgd_")

# Kinds of operators whose shapes say nothing more: by name alone.
OPERATOR_RULES = (
    Rule("communication", "PyTorch distributed", r"^(nccl|gloo|ucc|mpi|c10d|_c10d_functional)::?|^record_param_comms$",
         "record_param_comms"),
    Rule("view", "PyTorch",
         r"^aten::(view|_?reshape(_alias)?|transpose|t|permute|expand(_as)?|as_strided|slice|select|(un)?squeeze|narrow|"
         r"detach_?|alias|empty(_like|_strided)?|_unsafe_view|split(_with_sizes)?|chunk|unbind|resize_?|resolve_\w+|"
         r"result_type|item|_local_scalar_dense|is_nonzero|lift_fresh|set_|numpy_T|movedim|flatten|unflatten|"
         r"broadcast_(to|tensors)|view_as|type_as|diagonal|unfold|is_same_size|_has_compatible_\w+|record_stream|"
         r"is_pinned|(new|scalar)_\w+)_?$|^detach_?$",
         "aten::as_strided"),
    Rule("memory", "PyTorch", r"distributed.*reducer::|flatten_dense_tensors|(slice|select)_backward$|^aten::(copy_|_copy_from|_?to(_copy)?|contiguous|clone|zeros?(_|_like)?|fill_|ones(_like)?|full|pin_memory)$",
         "aten::copy_"),
    Rule("optimizer", "PyTorch", r"^aten::(_foreach|_fused_(adam|sgd))|^Optimizer\.", "aten::_foreach_addcdiv_"),
    Rule("softmax", "PyTorch, Megatron", r"softmax|cross_entropy|nll_loss|CrossEntropy|log_softmax|logsumexp",
         "aten::_log_softmax_backward_data"),
    Rule("gemm", "PyTorch, Transformer Engine", r"(mm|matmul|linear|einsum|(?<!scaled_)dot)(_|$)|Linear(WithGrad\w+)?(Backward)?$",
         "aten::matmul"),
    Rule("attention", "PyTorch, FlashAttention", r"[Aa]ttention|[Ff]lash|fmha|FusedAttnFunc|[Mm]ulti_?head",
         "FusedAttnFunc"),
    Rule("norm", "PyTorch, apex, Transformer Engine", r"[Nn]orm", "aten::cudnn_batch_norm"),
    Rule("convolution", "PyTorch", r"conv", "aten::cudnn_convolution"),
    Rule("embedding", "PyTorch, FBGEMM", r"[Ee]mbedding|fbgemm|split_lookup", "aten::embedding_dense_backward"),
    Rule("permute", "PyTorch, Megatron",
         r"[Pp]ermut|sort|topk|gather|scatter|index|cumsum|nonzero|unique|masked_select|moe_|take|bincount|where",
         "aten::index_select"),
    Rule("reduction", "PyTorch", r"^aten::(sum|mean|max|min|amax|amin|norm|linalg_vector_norm|all|any|std|var|prod|arg(max|min)|count\w+)$",
         "aten::mean"),
    Rule("elementwise", "PyTorch",
         r"^aten::_?(add|sub|rsub|mul|div|neg|pow|sqrt|rsqrt|exp|log|tanh|sigmoid|relu|gelu|silu|threshold|dropout|"
         r"clamp\w*|abs|cos|sin|cat|stack|eq|ne|lt|gt|le|ge|bitwise\w*|logical\w*|masked_fill|triu|tril|arange|erf|"
         r"bernoulli|native_dropout|uniform|normal|reciprocal|sign|ceil|floor|square|addcmul|addcdiv|lerp|amp\w*|"
         r"maximum|minimum|isnan|isinf|isfinite|mse_loss|max_pool2d\w*|avg_pool2d\w*|adaptive\w*|hardtanh|"
         r"masked_fill|random|remainder|floor_divide|round|softplus|mish|leaky_relu)(_?scalar)?(_?backward\w*)?_?$",
         "aten::threshold_backward"),
    Rule("elementwise", "PyTorch", r"^aten::(repeat(_interleave)?|rand\w*|nan_to_num|log2|log1p|elu|logit|constant_pad_nd|pad|upsample\w*|"
         r"glu|hardswish|diff|roll|flip)(_backward)?_?$", "aten::constant_pad_nd"),
    Rule("elementwise", "PyTorch inductor", r"^triton_(poi|red|per)_fused", "triton_poi_fused_add_mul_silu_0"),
    Rule("autograd", "PyTorch", r"^autograd::|^torch::autograd::|Backward\d*$|::AccumulateGrad$",
         "autograd::engine::evaluate_function: AddmmBackward0"),
)  # fmt: skip

# The rule by which an operator without telling shapes is classified.
operator_rule = first_match(OPERATOR_RULES)


def element_type(types: Sequence[object]) -> str:
    """vtrain's name of the element type of the first argument that has one; "" without any."""
    for name in types:
        text = str(name).lower()
        if "float8" in text:
            return "float8"
        dtype = DTYPES.get(text)
        if dtype is not None and dtype.startswith(("float", "bfloat")):
            return dtype
    return ""


def shaped_operator(name: str, dims: Dims, types: Sequence[object], dtype: str = "") -> Operator | None:
    """The operator that a call with these input sizes is; None where they do not say.

    dtype: element type for calls whose `types` name none.

    A backward product is given as the plain product that it is, with phase "forward": which gradient
    it takes is known only from the forward call (see `as_gradient`). Attention is given as causal: what the
    call says of it is no size (see `causal_argument`).
    """
    dtype = element_type(types) or dtype or "float32"
    try:
        if name in _PRODUCTS:
            return _product(dims, dtype, _PRODUCTS[name])
        if name in _TE_LINEAR:
            return _te_linear(dims, dtype, _TE_LINEAR[name])
        if name in _ATTENTION:
            return _attention(dims, dtype, *_ATTENTION[name])
        if name in _NORMS:
            position, phase = _NORMS[name]
            sizes = dims[position]
            return Operator("norm", phase, prod(sizes[:-1]), sizes[-1], dtype=dtype) if sizes else None
        if name == "aten::embedding":
            table, indices = dims[0], dims[1]
            return Operator("embedding", "forward", prod(indices), table[1], table[0], dtype=dtype)
        if name in _UPDATES:
            return Operator("optimizer", "update", sum(prod(sizes) for sizes in dims[0]), dtype=dtype)
    except (IndexError, TypeError):
        return None
    return None


def causal_argument(name: str) -> int | None:
    """Position of the argument by which an attention call says that it is causal, None where it has none."""
    return _CAUSAL.get(name)


def as_gradient(product: Operator, forward: Operator) -> Operator | None:
    """A plain product inside the backward pass of `forward`, named as the gradient that it computes.

    Data gradient [m, k] = [m, n] [n, k]; weight gradient [n, k] = [n, m] [m, k], or its transpose. None
    where the sizes fit neither.
    """
    if product.batch != forward.batch:
        return None
    # A batched product counts batch x rows: its gradients are compared one problem at a time.
    m, n, k = forward.m // forward.batch, forward.n, forward.k
    sizes = (product.m // product.batch, product.n, product.k)
    phase = "dgrad" if sizes == (m, k, n) else "wgrad" if sizes in ((n, k, m), (k, n, m)) else ""
    if not phase:
        return None
    return Operator(forward.kind, phase, forward.m, n, k, forward.batch, dtype=product.dtype)


def _product(dims: Dims, dtype: str, first: int) -> Operator | None:
    if first < 0:  # input and weight [n, k]
        rows, weight = dims[0], dims[1]
        if len(weight) != 2 or not rows or rows[-1] != weight[1]:
            return None
        return Operator("gemm", "forward", prod(rows[:-1]), weight[0], weight[1], dtype=dtype)
    a, b = dims[first], dims[first + 1]
    if len(a) == 2 and len(b) == 2 and a[1] == b[0]:
        return Operator("gemm", "forward", a[0], b[1], a[1], dtype=dtype)
    if len(a) == 3 and len(b) == 3 and a[2] == b[1]:
        # A batched product does the work of one with batch x m rows.
        return Operator("gemm", "forward", a[0] * a[1], b[2], a[2], batch=a[0], dtype=dtype)
    return None


def _te_linear(dims: Dims, dtype: str, fused: bool) -> Operator | None:
    tensors = [sizes for sizes in dims if len(sizes) >= 2 and isinstance(sizes[0], int)]
    for index, weight in enumerate(tensors):
        others = [sizes for i, sizes in enumerate(tensors) if i != index and sizes[-1] == weight[1]]
        # An input of [tokens, k] looks like a weight too: Transformer Engine passes the weight first.
        if len(weight) == 2 and others:
            rows = others[0]
            if fused and index == 0 and len(rows) == 2:
                weight, rows = rows, weight  # the normalised input goes first there
            return Operator("gemm", "forward", prod(rows[:-1]), weight[0], weight[1], dtype=dtype, fused=fused)
    return None


def _attention(dims: Dims, dtype: str, at: int, layout: str, phase: str) -> Operator | None:
    query, key = dims[at], dims[at + 1]
    if len(query) == 3:  # packed sequences, [tokens, heads, head_dim]
        (seq_q, heads, head_dim), batch = query, 1
        seq_kv, kv_heads = key[0], key[1]
    elif len(query) == 4 and layout == "h":
        batch, heads, seq_q, head_dim = query
        kv_heads, seq_kv = key[1], key[2]
    elif len(query) == 4:
        batch, seq_q, heads, head_dim = query
        seq_kv, kv_heads = key[1], key[2]
    else:
        return None
    return Operator(
        "attention", phase, batch=batch, seq_q=seq_q, seq_kv=seq_kv, heads=heads, kv_heads=kv_heads,
        head_dim=head_dim, dtype=dtype, fused=True, causal=True,
    )  # fmt: skip
