"""Trains a model with parts that stand in for those that only run on a GPU: a Mamba layer, another mixer, a fused MLP.

Argument 1: output directory. The parts are recognised by the names of their classes; their arithmetic is a stand-in.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import vtrain_plugin
from plugin.toy_training import ToyTraining


class GatedDeltaNet(torch.nn.Module):
    """In place of attention: a class that the plugin does not know, at a place that it knows."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.linear_qkv, self.linear_proj = attention.linear_qkv, attention.linear_proj

    def forward(self, hidden_states: torch.Tensor, *args: object, **options: object) -> Any:
        wide, _ = self.linear_qkv(hidden_states)
        return self.linear_proj(torch.cumsum(wide[..., : hidden_states.shape[-1]], 0))


class MambaMixer(torch.nn.Module):
    """The mixer of a Mamba layer."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(hidden_states, 0)


class MambaLayer(torch.nn.Module):
    """A layer that is no transformer layer."""

    def __init__(self, layer_number: int) -> None:
        super().__init__()
        self.layer_number = layer_number
        self.mixer = MambaMixer()

    def forward(self, hidden_states: torch.Tensor, *args: object, **options: object) -> Any:
        return hidden_states + self.mixer(hidden_states), None


def fused_mlp(mlp: Any) -> type:
    """A class of MLP that multiplies by its layers' weights without running them, as fused operations do."""

    def forward(self: Any, hidden_states: torch.Tensor, *args: object, **options: object) -> Any:
        wide = torch.nn.functional.linear(hidden_states, self.linear_fc1.weight, self.linear_fc1.bias)
        narrow = torch.nn.functional.linear(torch.nn.functional.gelu(wide), self.linear_fc2.weight)
        return narrow, self.linear_fc2.bias

    return type("TEFusedMLP", (type(mlp),), {"forward": forward})


def main() -> None:
    out = sys.argv[1]
    training = ToyTraining()
    layers = training.model.module.decoder.layers
    layers[0].self_attention = GatedDeltaNet(layers[0].self_attention)
    layers[0].mlp.__class__ = fused_mlp(layers[0].mlp)
    layers.append(MambaLayer(2))
    vtrain_plugin.enable(out, warmup=1, steps=1, nvtx=False, run_id="r")
    training.run(3)


if __name__ == "__main__":
    main()
