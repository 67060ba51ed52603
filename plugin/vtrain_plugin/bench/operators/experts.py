"""Mixture of experts: router, permutation to the experts and back, the products of the local experts."""

from __future__ import annotations

from dataclasses import replace

import torch

from vtrain_plugin.bench.operators.workbench import Attributes, Variant, Workbench, register
from vtrain_schemas.operators import Operator


@register("router")
def router(bench: Workbench, operator: Operator) -> list[Variant]:
    """Product with the experts' embeddings, softmax in fp32, and the best of it."""
    best = bench.model.moe_router_topk
    x = bench.tensor(operator, operator.m, operator.k, grad=True)
    weight = bench.tensor(operator, operator.n, operator.k, grad=True)

    def forward() -> torch.Tensor:
        logits = torch.nn.functional.linear(x, weight).float()
        return torch.softmax(torch.topk(logits, best, dim=-1).values, dim=-1)

    return bench.forward_and_backward(operator, forward, (x, weight), {"implementation": "torch", "topk": best})


@register("permute")
def permute(bench: Workbench, operator: Operator) -> list[Variant]:
    """Rows in the order of their experts, and summed back to tokens."""
    model = bench.model
    tokens, best = operator.m // model.moe_router_topk, model.moe_router_topk
    x = bench.tensor(operator, tokens, operator.n, grad=True)
    chosen = torch.rand(tokens, model.num_experts, device=bench.device.device).topk(best, dim=-1).indices
    if bench.choices.moe_permute_fusion and bench.have.transformer_engine is not None:
        return _engine_permute(bench, operator, x, chosen)
    # Tokens by expert: the columns of the routing map one after the other.
    source = chosen.flatten().argsort(stable=True) // best
    rows = source[:, None].expand(-1, operator.n)

    def forward() -> torch.Tensor:
        permuted = x.index_select(0, source)
        return torch.zeros_like(x).scatter_add(0, rows, permuted)

    return bench.forward_and_backward(
        operator, forward, (x,), {"implementation": "torch", "topk": best, "moe_permute_fusion": False}
    )


def _engine_permute(bench: Workbench, operator: Operator, x: torch.Tensor, chosen: torch.Tensor) -> list[Variant]:
    engine = bench.have.transformer_engine
    assert engine is not None
    routing = torch.zeros(x.shape[0], bench.model.num_experts, device=x.device, dtype=torch.int32)
    routing.scatter_(1, chosen, 1)

    def forward() -> torch.Tensor:
        permuted, order = engine.moe_permute(x, routing, num_out_tokens=operator.m, map_type="mask")
        back: torch.Tensor = engine.moe_unpermute(permuted, order, restore_shape=x.shape, map_type="mask")
        return back

    how: Attributes = {
        "implementation": "transformer_engine",
        "topk": bench.model.moe_router_topk,
        "moe_permute_fusion": True,
    }
    return bench.forward_and_backward(operator, forward, (x,), how)


@register("grouped_gemm")
def grouped_gemm(bench: Workbench, operator: Operator) -> list[Variant]:
    """The experts' products, with as many rows to each: in one grouped call, or one expert after the other."""
    if operator.dtype == "float8":
        raise ValueError("8-bit products of experts are not measured here: vtrain-profile rank measures them")
    makers = {"te_grouped": _engine_grouped, "grouped_gemm": _library_grouped, "sequential": _sequential}
    how: Attributes = {"experts": bench.choices.experts}
    return makers[bench.choices.experts](bench, operator, how)


def _rows(operator: Operator) -> list[int]:
    """Rows of each expert: even, the first ones one more where they do not divide."""
    each, more = divmod(operator.m, operator.batch)
    return [each + (i < more) for i in range(operator.batch)]


def _engine_grouped(bench: Workbench, operator: Operator, how: Attributes) -> list[Variant]:
    engine = bench.have.transformer_engine
    assert engine is not None
    fused = bench.choices.gradient_accumulation_fusion
    x = bench.tensor(operator, operator.m, operator.k, grad=True)
    layer = engine.GroupedLinear(
        operator.batch,
        operator.k,
        operator.n,
        bias=False,
        params_dtype=x.dtype,
        device=bench.device.device,
        fuse_wgrad_accumulation=fused,
    )
    weights = [getattr(layer, f"weight{i}") for i in range(operator.batch)]
    for weight in weights if fused else ():
        weight.main_grad = torch.zeros(operator.n, operator.k, device=bench.device.device)
    rows = _rows(operator)
    how |= {"implementation": "transformer_engine", "gradient_accumulation_fusion": fused}
    output = layer(x, rows)
    gradient = torch.ones_like(output)

    def backward() -> object:
        return torch.autograd.grad(output, [x, *weights], gradient, retain_graph=True, allow_unused=True)

    return [
        Variant(operator, lambda: layer(x, rows), how),
        Variant(replace(operator, phase="backward"), backward, how),
    ]


def _library_grouped(bench: Workbench, operator: Operator, how: Attributes) -> list[Variant]:
    library = bench.have.grouped_gemm
    assert library is not None
    x = bench.tensor(operator, operator.m, operator.k, grad=True)
    weights = bench.tensor(operator, operator.batch, operator.k, operator.n, grad=True)
    rows = torch.tensor(_rows(operator))  # on the host, as the library wants it
    how |= {"implementation": "grouped_gemm", "gradient_accumulation_fusion": False}
    return bench.forward_and_backward(operator, lambda: library.gmm(x, weights, rows), (x, weights), how)


def _sequential(bench: Workbench, operator: Operator, how: Attributes) -> list[Variant]:
    parts = [bench.tensor(operator, rows, operator.k) for rows in _rows(operator)]
    gradients = [bench.tensor(operator, rows, operator.n) for rows in _rows(operator)]
    weights = [bench.tensor(operator, operator.n, operator.k) for _ in range(operator.batch)]
    main = [torch.zeros(operator.n, operator.k, device=bench.device.device) for _ in weights]
    how |= {"implementation": "torch", "gradient_accumulation_fusion": False}

    def forward() -> None:
        for part, weight in zip(parts, weights, strict=True):
            torch.nn.functional.linear(part, weight)

    def dgrad() -> None:
        for gradient, weight in zip(gradients, weights, strict=True):
            gradient @ weight

    def wgrad() -> None:
        for gradient, part, total in zip(gradients, parts, main, strict=True):
            total.add_(gradient.t() @ part)

    return [
        Variant(operator, forward, how),
        Variant(replace(operator, phase="dgrad"), dgrad, how),
        Variant(replace(operator, phase="wgrad"), wgrad, how),
    ]
