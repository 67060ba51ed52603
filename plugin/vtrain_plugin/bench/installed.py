"""Which libraries of kernels this environment has. None of them is required."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from types import ModuleType

# Modules that Megatron-Core looks for, and imports only where they are.
_MODULES = {
    "megatron": "megatron.core",
    "transformer_engine": "transformer_engine.pytorch",
    "weight_gradient": "fused_weight_gradient_mlp_cuda",
    "masked_softmax": "scaled_upper_triang_masked_softmax_cuda",
    "persistent_norm": "apex.contrib.layer_norm.layer_norm",
    "fused_norm": "apex.normalization.fused_layer_norm",
    "apex_optimizers": "apex.optimizers",
    "grouped_gemm": "grouped_gemm.ops",
}


@dataclass(frozen=True)
class Installed:
    """Each library's module, or None where it cannot be imported."""

    megatron: ModuleType | None = None
    transformer_engine: ModuleType | None = None
    weight_gradient: ModuleType | None = None
    masked_softmax: ModuleType | None = None
    persistent_norm: ModuleType | None = None
    fused_norm: ModuleType | None = None
    apex_optimizers: ModuleType | None = None
    grouped_gemm: ModuleType | None = None


def installed() -> Installed:
    """Import what there is; what it warns of is not the user's doing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Installed(**{name: _module(module) for name, module in _MODULES.items()})


def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, AttributeError):
        # A library that was built for another torch fails while it loads.
        return None
