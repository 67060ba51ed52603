"""The rate of latent attention's kernels, from times that a surface made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import vtrain as vt
from vtrain_schemas.operators import Operator
from vtrain_sim.calibration.latent_attention import HEAD_DIM, fit_latent_attention
from vtrain_sim.costs.surfaces import DeviceSurface, Surfaces
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets

DEVICE = presets.device("b200-sxm-180gb")
PRESET = Surfaces.from_dict(presets.device_surfaces("b200-sxm-180gb"))


def attention(seq: int, heads: int, head_dim: int = HEAD_DIM) -> Operator:
    sizes = {"seq_q": seq, "seq_kv": seq, "heads": heads, "kv_heads": heads, "head_dim": head_dim}
    return Operator("attention", "forward", batch=1, fused=True, causal=True, **sizes)


def table(path: Path, surfaces: Surfaces) -> Path:
    surface = DeviceSurface(DEVICE, surfaces)
    rows = [
        f"1,{seq},{heads},bfloat16,{surface.seconds(attention(seq, heads)) * 1e6},b200"
        for seq in (1024, 2048, 4096, 8192)
        for heads in (16, 64, 128)
    ]
    path.write_text("batch_size,seq_length,num_heads,dtype,duration_us,system\n" + "\n".join(rows) + "\n")
    return path


def test_a_rate_by_head_dimension_is_that_of_its_kernels_alone() -> None:
    plain = DeviceSurface(DEVICE, replace(PRESET, head_dim={}, overhead_s={}))
    faster = DeviceSurface(DEVICE, replace(PRESET, head_dim={"160": 1.25}, overhead_s={}))
    assert plain.seconds(attention(8192, 64)) / faster.seconds(attention(8192, 64)) == pytest.approx(1.25)
    assert plain.seconds(attention(8192, 64, 128)) == faster.seconds(attention(8192, 64, 128))


def test_the_fit_finds_the_rate(tmp_path: Path) -> None:
    path = table(tmp_path / "mla.csv", replace(PRESET, head_dim={"160": 1.3}))
    rates, report = fit_latent_attention(DEVICE, PRESET, path, "b200")
    assert rates["160"] == pytest.approx(1.3, rel=0.05)
    assert "9 shapes" in report
    result = vt.calibrate(latent_attention=path, device="b200-sxm-180gb")
    assert result.toml.startswith("[surfaces.head_dim]")
    with pytest.raises(UserError, match="no latent attention"):
        fit_latent_attention(DEVICE, PRESET, path, "gb200")
    with pytest.raises(UserError, match="--latent-attention takes --device"):
        vt.calibrate(latent_attention=path)
