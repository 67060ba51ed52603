"""Coefficients of grouped products, from blocks of experts whose times a surface made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import vtrain as vt
from vtrain_schemas.operators import Operator
from vtrain_sim.calibration.experts import ExpertBlock, fit_experts, read_experts
from vtrain_sim.costs.surfaces import DeviceSurface, Surfaces
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets

DEVICE = presets.device("b200-sxm-180gb")
PRESET = Surfaces.from_dict(presets.device_surfaces("b200-sxm-180gb"))


def blocks(share: float, overhead: float) -> list[ExpertBlock]:
    """Blocks whose products reach a share of a plain one's rate, and whose passes half of the bandwidth."""
    plain = replace(PRESET, efficiency={}, overhead_s={})
    surface = DeviceSurface(DEVICE, plain)
    made = []
    for experts in (8, 32):
        for tokens in (1024, 4096, 16384):
            for hidden, ffn in ((2048, 768), (4096, 1536), (7168, 2048)):
                products = sum(
                    surface.seconds(Operator("grouped_gemm", "forward", tokens, n, k, experts, dtype="mxfp8"))
                    for n, k in ((2 * ffn, hidden), (hidden, ffn))
                )
                passes = 2.0 * (3 * tokens * (ffn + hidden) + tokens * hidden) / DEVICE.memory_bandwidth
                seconds = 2 * overhead + products / share + passes / 0.5
                made.append(ExpertBlock(tokens, hidden, ffn, experts, tokens, seconds))
    return made


def test_the_fit_finds_what_made_the_times() -> None:
    fit = fit_experts(DEVICE, PRESET, {"mxfp8": blocks(0.8, 2e-5)})
    assert fit.efficiency["mxfp8"] == pytest.approx(0.8, rel=0.1)
    assert fit.overhead_s == pytest.approx(2e-5, rel=0.2)


def test_rows_are_those_of_one_rank(tmp_path: Path) -> None:
    """Rows of all experts over the ranks, expert size over their tensor parallel ranks; skewed routing is left out."""
    header = (
        "num_tokens,hidden_size,inter_size,topk,num_experts,moe_tp_size,moe_ep_size,distribution,dtype,stack,"
        "kernel_source,system,duration_us\n"
    )
    row = "{0},2048,1536,8,128,2,16,{1},fp8_block,s,{2},gb200,{3}\n"
    lines = [row.format(1024 * n, "balanced", "cutlass", 50 + n) for n in range(1, 21)]
    lines += [row.format(1024, "power_law_1.01", "cutlass", 1), row.format(1024, "balanced", "min_latency", 1)]
    path = tmp_path / "moe.csv"
    path.write_text(header + "".join(lines))
    found = read_experts(path, "fp8_block", "s", "gb200")
    assert len(found) == 20
    assert min(found, key=lambda b: b.rows) == ExpertBlock(512, 2048, 768, 8, 1024, 51e-6)
    with pytest.raises(UserError, match="0 blocks of experts in bfloat16"):
        read_experts(path, "bfloat16")
    result = vt.calibrate(experts=path, device="b200-sxm-180gb", products={"mxfp8": "fp8_block"})
    assert '"grouped_gemm/mxfp8" = ' in result.toml
    with pytest.raises(UserError, match="--experts takes --device"):
        vt.calibrate(experts=path)
