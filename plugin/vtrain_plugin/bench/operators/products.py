"""Linear layers: the product, its data gradient, and its weight gradient with the addition to the main gradients."""

from __future__ import annotations

from dataclasses import replace

import torch

from vtrain_plugin.bench.device_queue import Call
from vtrain_plugin.bench.operators.workbench import Attributes, Variant, Workbench, register
from vtrain_schemas.operators import Operator


@register("gemm")
def gemm(bench: Workbench, operator: Operator) -> list[Variant]:
    """Three products. The weight gradient is accumulated as the arguments say."""
    if operator.dtype == "float8":
        return _scaled(bench, operator)
    x = bench.tensor(operator, operator.m, operator.k)
    weight = bench.tensor(operator, operator.n, operator.k)
    gradient = bench.tensor(operator, operator.m, operator.n)
    main = torch.zeros(operator.n, operator.k, device=bench.device.device)
    plain: Attributes = {"implementation": "torch"}
    accumulate, how = _accumulation(bench, x, gradient, main)
    variants = [
        Variant(operator, lambda: torch.nn.functional.linear(x, weight), plain),
        Variant(replace(operator, phase="dgrad"), lambda: gradient @ weight, plain),
        Variant(replace(operator, phase="wgrad"), accumulate, how),
    ]
    return [*variants, *_engine_linear(bench, operator, x)]


def _accumulation(
    bench: Workbench, x: torch.Tensor, gradient: torch.Tensor, main: torch.Tensor
) -> tuple[Call, Attributes]:
    """The weight gradient [n, k], added to the main gradients in the same kernel or in one of its own."""
    library = bench.have.weight_gradient
    if bench.choices.gradient_accumulation_fusion and library is not None:
        attributes: Attributes = {"implementation": "apex", "gradient_accumulation_fusion": True}
        return lambda: library.wgrad_gemm_accum_fp32(x, gradient, main), attributes
    attributes = {"implementation": "torch", "gradient_accumulation_fusion": False}
    return lambda: main.add_(gradient.t() @ x), attributes


def _engine_linear(bench: Workbench, operator: Operator, x: torch.Tensor) -> list[Variant]:
    """The backward pass of Transformer Engine's layer, both gradients together; nothing where it is not used."""
    engine = bench.have.transformer_engine
    if not bench.choices.transformer_engine or engine is None:
        return []
    fused = bench.choices.gradient_accumulation_fusion
    layer = engine.Linear(
        operator.k,
        operator.n,
        bias=False,
        params_dtype=x.dtype,
        device=bench.device.device,
        fuse_wgrad_accumulation=fused,
    )
    if fused:
        layer.weight.main_grad = torch.zeros(operator.n, operator.k, device=bench.device.device)
    inputs = [x.detach().clone().requires_grad_(), layer.weight]
    how: Attributes = {"implementation": "transformer_engine", "gradient_accumulation_fusion": fused}
    output = layer(inputs[0])
    gradient = torch.ones_like(output)

    def backward() -> object:
        return torch.autograd.grad(output, inputs, gradient, retain_graph=True, allow_unused=True)

    return [Variant(replace(operator, phase="backward"), backward, how)]


def _scaled(bench: Workbench, operator: Operator) -> list[Variant]:
    """Products of 8-bit factors with one scale per tensor; the conversion to 8 bits is an operator of its own.

    Transposed copies are there, as Transformer Engine keeps them: 8-bit products want both factors along k.
    """
    choices = bench.choices
    wide = replace(operator, dtype=bench.model.dtype)
    forward_type = torch.float8_e4m3fn
    backward_type = torch.float8_e5m2 if choices.fp8 == "hybrid" else forward_type
    m, n, k = operator.m, operator.n, operator.k
    x, weight = (bench.tensor(wide, rows, k).to(forward_type) for rows in (m, n))
    gradient = bench.tensor(wide, m, n).to(backward_type)
    x_t, weight_t, gradient_t = (tensor.t().contiguous() for tensor in (x, weight, gradient))
    one = torch.ones((), device=bench.device.device)
    main = torch.zeros(n, k, device=bench.device.device)
    out = bench.device.dtype(bench.model.dtype)

    def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        # `right` lies along the inner dimension too.
        return torch._scaled_mm(left, right.t(), scale_a=one, scale_b=one, out_dtype=out)

    how: Attributes = {"implementation": "torch", "fp8": choices.fp8, "scaling": "per tensor"}
    return [
        Variant(operator, lambda: product(x, weight), how),
        Variant(replace(operator, phase="dgrad"), lambda: product(gradient, weight_t), how),
        Variant(
            replace(operator, phase="wgrad"),
            lambda: main.add_(product(gradient_t, x_t)),
            {**how, "gradient_accumulation_fusion": False},
        ),
    ]
