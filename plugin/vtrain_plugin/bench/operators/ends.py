"""Both ends of the model, and the optimizer."""

from __future__ import annotations

from dataclasses import replace

import torch

from vtrain_plugin.bench.operators.workbench import Variant, Workbench, register
from vtrain_schemas.operators import Operator


@register("embedding")
def embedding(bench: Workbench, operator: Operator) -> list[Variant]:
    """Rows of a table, and the dense gradient of the table."""
    table = bench.tensor(operator, operator.k, operator.n, grad=True)
    tokens = torch.randint(0, operator.k, (operator.m,), device=bench.device.device)
    return bench.forward_and_backward(
        operator, lambda: torch.nn.functional.embedding(tokens, table), (table,), {"implementation": "torch"}
    )


@register("loss")
def loss(bench: Workbench, operator: Operator) -> list[Variant]:
    """Cross entropy of the logits in fp32."""
    logits = bench.tensor(operator, operator.m, operator.n, grad=True)
    labels = torch.randint(0, operator.n, (operator.m,), device=bench.device.device)
    return bench.forward_and_backward(
        operator,
        lambda: torch.nn.functional.cross_entropy(logits.float(), labels),
        (logits,),
        {"implementation": "torch"},
    )


@register("optimizer")
def optimizer(bench: Workbench, operator: Operator) -> list[Variant]:
    """Adam on fp32 parameters, from the library that Megatron-Core takes: Transformer Engine, apex, PyTorch.

    Time is linear in the elements: at most 2^28 are measured.
    """
    count = min(operator.m, 1 << 28 if bench.device.cuda else 1 << 24)
    parameter = torch.nn.Parameter(torch.zeros(count, device=bench.device.device))
    parameter.grad = torch.zeros_like(parameter)
    adam, implementation = _adam(bench, parameter)
    return [Variant(replace(operator, m=count), adam.step, {"implementation": implementation})]


def _adam(bench: Workbench, parameter: torch.nn.Parameter) -> tuple[torch.optim.Optimizer, str]:
    if bench.device.cuda and bench.have.transformer_engine is not None:
        return bench.have.transformer_engine.optimizers.FusedAdam([parameter], lr=1e-4), "transformer_engine"
    if bench.device.cuda and bench.have.apex_optimizers is not None:
        return bench.have.apex_optimizers.FusedAdam([parameter], lr=1e-4), "apex"
    return torch.optim.AdamW([parameter], lr=1e-4), "torch"
