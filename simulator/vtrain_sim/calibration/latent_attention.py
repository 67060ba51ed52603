"""Fits the rate of latent attention's kernels, over that of attention with as large heads, to a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vtrain_schemas.operators import Operator
from vtrain_sim.calibration.measurements import equal_to, query
from vtrain_sim.costs.surfaces import DeviceSurface, Surfaces
from vtrain_sim.errors import UserError
from vtrain_sim.specs import DeviceSpec

# DeepSeek's: 128 + 64 channels of queries and keys, 128 of values; both products together have the FLOPs of their mean.
HEAD_DIM = (128 + 64 + 128) // 2


def fit_latent_attention(
    device: DeviceSpec, surfaces: Surfaces, path: Path, system: str = ""
) -> tuple[dict[str, float], str]:
    """`Surfaces.head_dim` of latent attention, and a line on the fit.

    path: table with batch_size, seq_length, num_heads (of the rank), dtype, duration_us and system; causal forward
    passes in 16 bits of 2,048 tokens and 16 heads or more. The factor is the median over shapes.
    """
    where, values = equal_to({"system": system})
    rows = query(
        path,
        "SELECT batch_size, seq_length, num_heads, median(duration_us) / 1e6 FROM table WHERE dtype = 'bfloat16' "
        f"AND seq_length >= 2048 AND num_heads >= 16 AND batch_size <= 8{where} GROUP BY ALL ORDER BY ALL",
        values,
    )
    if not rows:
        raise UserError(f"{path} has no latent attention of 2,048 tokens and 16 heads or more")
    surface = DeviceSurface(device, surfaces)
    ratios = np.array([surface.seconds(_operator(b, s, h)) / seconds for b, s, h, seconds in rows])
    factor = float(np.median(ratios)) * surfaces.head_dim.get(str(HEAD_DIM), 1.0)
    error = np.abs(ratios / np.median(ratios) - 1).mean()
    return {str(HEAD_DIM): round(factor, 3)}, f"latent attention forward: {len(rows)} shapes, mean error {error:.1%}"


def _operator(batch: int, seq: int, heads: int) -> Operator:
    return Operator(
        "attention",
        "forward",
        batch=batch,
        seq_q=seq,
        seq_kv=seq,
        heads=heads,
        kv_heads=heads,
        head_dim=HEAD_DIM,
        fused=True,
        causal=True,
    )
