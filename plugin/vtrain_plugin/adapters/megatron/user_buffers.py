"""Tensor parallel communication inside a product's own kernels (Transformer Engine's user buffers)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Attributes of Transformer Engine's linear layers that say that pieces of it are communicated beside the product.
_OVERLAPS = ("ub_overlap_", "ub_split_", "ub_atomic_gemm_", "ub_bulk_")


def communication_inside(module: torch.nn.Module) -> str:
    """ "tp" where a linear layer gathers or scatters beside its own products, else ""."""
    return "tp" if any(name.startswith(_OVERLAPS) and value is True for name, value in vars(module).items()) else ""
