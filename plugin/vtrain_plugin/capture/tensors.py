"""What is said of a tensor in a profile: its element type, its rows and its width."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def dtype_name(dtype: object) -> str:
    """``torch.bfloat16`` -> ``bfloat16``; the float8 types -> ``float8``."""
    name = str(dtype).removeprefix("torch.")
    return "float8" if name.startswith("float8") else name


def rows_and_width(tensor: torch.Tensor) -> tuple[int, int]:
    """Tokens and width of an activation [..., width]."""
    width = int(tensor.shape[-1])
    return int(tensor.numel()) // max(1, width), width
