"""Norm, activation, residual adds and conversion to 8 bits, fused as the arguments say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import TypeAlias

import torch

from vtrain_plugin.bench.operators.workbench import Attributes, Variant, Workbench, register
from vtrain_schemas.operators import Operator

_EPSILON = 1e-5


@register("norm")
def norm(bench: Workbench, operator: Operator) -> list[Variant]:
    """Layer or RMS norm: Transformer Engine's module, Megatron-Core's around apex, or PyTorch's."""
    module, how = _norm_module(bench, operator.n)
    module = module.to(device=bench.device.device, dtype=bench.device.dtype(operator.dtype))
    x = bench.tensor(operator, operator.m, operator.n, grad=True)
    how["normalization"] = "RMSNorm" if bench.choices.rms_norm else "LayerNorm"
    return bench.forward_and_backward(operator, lambda: module(x), (x, *module.parameters()), how)


def _norm_module(bench: Workbench, width: int) -> tuple[torch.nn.Module, Attributes]:
    have, choices = bench.have, bench.choices
    if choices.transformer_engine and have.transformer_engine is not None:
        kind = have.transformer_engine.RMSNorm if choices.rms_norm else have.transformer_engine.LayerNorm
        return kind(width, eps=_EPSILON), {"implementation": "transformer_engine"}
    apex = bench.device.cuda and (choices.persist_layer_norm or have.fused_norm is not None)
    if apex and have.megatron is not None and not choices.rms_norm:
        from megatron.core.fusions.fused_layer_norm import FusedLayerNorm

        config = SimpleNamespace(
            normalization="LayerNorm",
            persist_layer_norm=choices.persist_layer_norm,
            layernorm_zero_centered_gamma=False,
            memory_efficient_layer_norm=False,
            sequence_parallel=False,
        )
        module = FusedLayerNorm(config, width, _EPSILON)
        # It knows the widths that apex has a persistent kernel for.
        return module, {"implementation": "apex", "persist_layer_norm": bool(module.persist_layer_norm)}
    plain = torch.nn.RMSNorm if choices.rms_norm else torch.nn.LayerNorm
    return plain(width, eps=_EPSILON), {"implementation": "torch", "persist_layer_norm": False}


@register("activation")
def activation(bench: Workbench, operator: Operator) -> list[Variant]:
    """Bias and GELU, or bias and SwiGLU of an input twice as wide."""
    choices = bench.choices
    width = operator.n * (2 if choices.gated_linear_unit else 1)
    x = bench.tensor(operator, operator.m, width, grad=True)
    bias = bench.tensor(operator, width, grad=True) if choices.add_bias_linear else None
    fused = choices.bias_activation_fusion
    function = _fused_activation(choices.gated_linear_unit) if fused else _eager_activation(bench)
    how: Attributes = {
        "implementation": "megatron" if fused else "torch",
        "bias_activation_fusion": fused,
        "activation": "swiglu" if choices.gated_linear_unit else "gelu",
        "bias": bias is not None,
    }
    inputs = (x,) if bias is None else (x, bias)
    return bench.forward_and_backward(operator, lambda: function(x, bias), inputs, how)


def _fused_activation(gated: bool) -> Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]:
    if gated:
        from megatron.core.fusions.fused_bias_swiglu import bias_swiglu_impl as function
    else:
        from megatron.core.fusions.fused_bias_gelu import bias_gelu_impl as function
    implementation: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor] = function
    return implementation


def _eager_activation(bench: Workbench) -> Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]:
    functional = torch.nn.functional

    def call(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if bias is not None:
            x = x + bias
        if not bench.choices.gated_linear_unit:
            return functional.gelu(x)
        gate, linear = x.chunk(2, dim=-1)
        return functional.silu(gate) * linear

    return call


@register("bias_dropout_add")
def bias_dropout_add(bench: Workbench, operator: Operator) -> list[Variant]:
    """Both of a layer: after attention and after the feed-forward block."""
    choices = bench.choices
    x, residual = (bench.tensor(operator, operator.m, operator.n, grad=True) for _ in range(2))
    bias = bench.tensor(operator, operator.n, grad=True) if choices.add_bias_linear else None
    fused, dropout = choices.bias_dropout_fusion, choices.hidden_dropout
    add = _fused_add() if fused else _eager_add(bench)

    def forward() -> torch.Tensor:
        return add((x, bias), add((x, bias), residual, dropout), dropout)

    how: Attributes = {
        "implementation": "megatron" if fused else "torch",
        "bias_dropout_fusion": fused,
        "hidden_dropout": dropout,
        "bias": bias is not None,
    }
    inputs = (x, residual) if bias is None else (x, residual, bias)
    return bench.forward_and_backward(operator, forward, inputs, how)


# (output and bias of a linear layer), residual, probability of dropout.
_Add: TypeAlias = Callable[["tuple[torch.Tensor, torch.Tensor | None]", "torch.Tensor", float], "torch.Tensor"]


def _fused_add() -> _Add:
    from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add

    add: _Add = get_bias_dropout_add(True, True)
    return add


def _eager_add(bench: Workbench) -> _Add:
    functional = torch.nn.functional

    def add(x_with_bias: tuple[torch.Tensor, torch.Tensor | None], residual: torch.Tensor, p: float) -> torch.Tensor:
        x, bias = x_with_bias
        return residual + functional.dropout(x if bias is None else x + bias, p, True)

    return add


@register("cast")
def cast(bench: Workbench, operator: Operator) -> list[Variant]:
    """To 8 bits, and its transpose; backward the same of the gradient."""
    x = bench.tensor(operator, operator.m, operator.n)
    scale = torch.ones((), device=bench.device.device)

    def convert(to: torch.dtype) -> Callable[[], object]:
        def call() -> object:
            narrow = (x * scale).to(to)
            return narrow, narrow.t().contiguous()

        return call

    backward_type = torch.float8_e5m2 if bench.choices.fp8 == "hybrid" else torch.float8_e4m3fn
    how: Attributes = {"implementation": "torch", "fp8": bench.choices.fp8, "scaling": "per tensor"}
    return [
        Variant(operator, convert(torch.float8_e4m3fn), how),
        Variant(replace(operator, phase="backward"), convert(backward_type), how),
    ]
