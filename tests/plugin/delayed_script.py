"""Trains with what delays or replaces parts of a step on a GPU: weight gradients apart, an optimizer step that is a graph.

Argument 1: output directory. The classes stand in for those of Transformer Engine and of newer versions of Megatron-Core.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import vtrain_plugin
from plugin.toy_training import ToyTraining


class _InputGradient(torch.autograd.Function):
    """A product whose backward pass leaves the weight's gradient to be computed later."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, weight: torch.Tensor, kept: list[Any]) -> torch.Tensor:
        ctx.save_for_backward(tensor, weight)
        ctx.kept = kept
        return tensor @ weight.t()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
        tensor, weight = ctx.saved_tensors
        ctx.kept.append((tensor, gradient))
        return gradient @ weight, torch.zeros_like(weight), None


def delay(mlp: Any) -> None:
    """Have the first layer of an MLP compute its weight gradient when all else of the MLP is over."""
    layer = mlp.linear_fc1
    kept: list[Any] = []

    def multiply(self: Any, tensor: torch.Tensor) -> Any:
        return _InputGradient.apply(tensor, self.weight, kept), self.bias

    def backward_dw(self: Any) -> None:
        tensor, gradient = kept.pop()
        self.weight.main_grad += gradient.flatten(0, 1).t() @ tensor.flatten(0, 1)

    layer.__class__ = type("TELinear", (type(layer),), {"forward": multiply, "backward_dw": backward_dw})
    layer.wgrad_store = SimpleNamespace(delay_wgrad_compute=lambda: True)
    run = type(mlp).forward

    def forward(self: Any, hidden_states: torch.Tensor, *args: Any, **options: Any) -> Any:
        hidden_states.register_hook(lambda gradient: layer.backward_dw())
        return run(self, hidden_states, *args, **options)

    mlp.__class__ = type("MLP", (type(mlp),), {"forward": forward})


class OptimizerCudaGraphWrapper:
    """Stands for an optimizer's step, and replays it: no method of Megatron-Core's optimizers runs."""

    def __init__(self, optimizer_step_func: Any) -> None:
        self.optimizer_step_func = optimizer_step_func

    def __call__(self) -> Any:
        self.optimizer_step_func.__self__.optimizer.step()
        return True, 1.0, None


def graph_optimizer() -> None:
    """Have every optimizer's step be a graph."""
    from megatron.core import optimizer

    module: Any = ModuleType("megatron.core.optimizer.optimizer_cuda_graph")
    module.OptimizerCudaGraphWrapper = OptimizerCudaGraphWrapper
    sys.modules[module.__name__] = module
    make = optimizer.get_megatron_optimizer

    @functools.wraps(make)
    def made(*args: Any, **options: Any) -> Any:
        one = make(*args, **options)
        one.step = OptimizerCudaGraphWrapper(one.step)
        return one

    optimizer.get_megatron_optimizer = made


def main() -> None:
    out = sys.argv[1]
    training = ToyTraining()
    delay(training.model.module.decoder.layers[0].mlp)
    graph_optimizer()
    expected = training.run(4)
    vtrain_plugin.enable(out, warmup=1, steps=2, nvtx=False, run_id="r")
    same = training.run(4) == expected
    vtrain_plugin.disable()
    layer = training.model.module.decoder.layers[0].mlp.linear_fc1
    print(
        "same losses:",
        same,
        "left:",
        "backward_dw" in vars(layer),
        hasattr(OptimizerCudaGraphWrapper.__call__, "__wrapped__"),
    )


if __name__ == "__main__":
    main()
