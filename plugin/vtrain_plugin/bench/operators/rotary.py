"""Rotary embedding of queries and keys, in Transformer Engine's kernel or element by element."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import TypeAlias

import torch

from vtrain_plugin.bench.operators.workbench import Attributes, Variant, Workbench, register
from vtrain_schemas.operators import Operator

# (part [s, b, heads, channels], angles [s, 1, 1, channels]) -> the rotated part
_Rotate: TypeAlias = "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]"


@register("rope")
def rope(bench: Workbench, operator: Operator) -> list[Variant]:
    """Split of the projection, and rotation of its queries and keys."""
    batch = max(1, operator.m // bench.model.seq_length)
    projected = bench.tensor(operator, operator.m // batch, batch, operator.n, grad=True)
    channels, split = _split(bench, operator)
    angles = torch.randn(operator.m // batch, 1, 1, channels, device=bench.device.device)
    fused = bench.choices.apply_rope_fusion
    rotate = _fused() if fused else _eager(bench)

    def forward() -> tuple[torch.Tensor, ...]:
        return tuple(rotate(part, angles) for part in split(projected))

    how: Attributes = {"implementation": "transformer_engine" if fused else "torch", "apply_rope_fusion": fused}
    return bench.forward_and_backward(operator, forward, (projected,), how)


def _split(bench: Workbench, operator: Operator) -> tuple[int, Callable[[torch.Tensor], list[torch.Tensor]]]:
    """Channels that are rotated, and the parts [s, b, heads, channels] of a projection [s, b, n] that are."""
    model = bench.model
    if model.multi_latent_attention:
        # Queries of all heads; the keys' rotated channels are shared by the heads.
        rotated = model.qk_pos_emb_head_dim
        return rotated, lambda x: [x.unflatten(-1, (-1, model.latent_query_dim))[..., -rotated:]]
    heads = operator.n // model.head_dim
    kv = heads * model.groups // (model.num_attention_heads + 2 * model.groups)
    sizes = [(heads - 2 * kv) * model.head_dim, kv * model.head_dim, kv * model.head_dim]

    def split(x: torch.Tensor) -> list[torch.Tensor]:
        query, key, _ = x.split(sizes, dim=-1)
        return [part.unflatten(-1, (-1, model.head_dim)) for part in (query, key)]

    return model.head_dim, split


def _fused() -> _Rotate:
    from megatron.core.models.common.embeddings import rope_utils

    function = rope_utils.apply_rotary_pos_emb
    config = SimpleNamespace(
        apply_rope_fusion=True, rotary_interleaved=False, multi_latent_attention=False, mrope_section=None
    )
    # Any group will do: only packed sequences ask it anything.
    more = {"cp_group": object()} if "cp_group" in inspect.signature(function).parameters else {}

    def rotate(part: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        rotated: torch.Tensor = function(part, angles, config, **more)
        return rotated

    return rotate


def _eager(bench: Workbench) -> _Rotate:

    def rotate(part: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        cosine, sine = angles.cos().to(part.dtype), angles.sin().to(part.dtype)
        first, second = part.chunk(2, dim=-1)
        return part * cosine + torch.cat((-second, first), dim=-1) * sine

    return rotate
