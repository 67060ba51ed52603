"""Lets Megatron-Core's multi-latent attention train on CPU, without Transformer Engine. Test support only."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from support import cpu_shims


class DotProductAttention(torch.nn.Module):
    """Core attention whose values are of another width than its keys; Megatron-Core's own has one for both."""

    def __init__(
        self, config: Any, layer_number: int, k_channels: int = 0, v_channels: int = 0, **options: Any
    ) -> None:
        super().__init__()
        self.layer_number = layer_number
        self.attn_mask_type = options.get("attn_mask_type")

    def forward(self, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        """[s, b, heads, channels] -> [s, b, heads x channels]."""
        q, k, v = (tensor.permute(1, 2, 0, 3) for tensor in (query, key, value))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return out.permute(2, 0, 1, 3).flatten(2)


def apply() -> None:
    """Apply the shims of the processor, and these."""
    cpu_shims.apply()
    from megatron.core.models.gpt import gpt_layer_specs
    from megatron.core.transformer import multi_latent_attention

    with contextlib.suppress(ImportError):
        from megatron.core.models.backends import LocalSpecProvider

        LocalSpecProvider.core_attention = lambda self: DotProductAttention  # type: ignore[method-assign]
    # Before 0.13 the specification names the class itself.
    if hasattr(gpt_layer_specs, "DotProductAttention"):
        gpt_layer_specs.DotProductAttention = DotProductAttention
    cpu_shims.absent_classes(multi_latent_attention, "TELinear", "TEColumnParallelLinear")
