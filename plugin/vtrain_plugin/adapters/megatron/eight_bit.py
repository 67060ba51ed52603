"""Whether a module's products are in 8 bits."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Where Transformer Engine keeps the state of its autocast: since 2.8, and before.
_STATES = ("transformer_engine.pytorch.quantization", "transformer_engine.pytorch.fp8")
# Whether a class is derived from one of Transformer Engine's: a handful of classes are asked for in every layer.
_KNOWN: dict[type, bool] = {}


def _of_transformer_engine(kind: type) -> bool:
    known = _KNOWN.get(kind)
    if known is None:
        known = _KNOWN[kind] = any(cls.__module__.startswith("transformer_engine.") for cls in kind.__mro__)
    return known


def multiplies_in_8_bits(module: torch.nn.Module | None) -> bool:
    """Whether a linear layer that has just run did so inside an 8-bit autocast: it is then one of Transformer Engine.

    Megatron-Core enters the autocast layer by layer, so that layers that stay in 16 bits are told apart.
    """
    if module is None or not _of_transformer_engine(type(module)):
        return False
    for name in _STATES:
        state = getattr(sys.modules.get(name), "FP8GlobalStateManager", None)
        if state is not None:
            return bool(state.is_fp8_enabled())
    return False
