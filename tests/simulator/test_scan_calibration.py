"""Fitting the kernels of Mamba2 mixers to a table of calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import vtrain as vt
from vtrain_schemas.operators import Operator
from vtrain_sim.calibration.scans import fit_scans, read_scans
from vtrain_sim.costs.surfaces import DeviceSurface, Surfaces
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets

DEVICE = presets.device("b200-sxm-180gb")
HEADER = "system,kernel_source,batch_size,seq_len,d_state,d_conv,nheads,head_dim,n_groups,chunk_size,duration_us\n"
SCAN, CONVOLUTION = "mamba_chunk_scan_combined", "causal_conv1d_fn"


def table(path: Path, share: float = 0.25, fixed: float = 1e-5) -> Path:
    """Scans that reach a share of the bandwidth after a fixed time, convolutions twice that share after less."""
    lines = []
    for batch in (1, 2, 4, 8, 16):
        for length in (512, 2048, 4096, 8192, 16384):
            for heads in (64, 128):
                scan = Operator(
                    "chunk_scan",
                    "forward",
                    n=128,
                    k=128,
                    batch=batch,
                    seq_q=length,
                    heads=heads,
                    kv_heads=8,
                    head_dim=64,
                )
                convolution = Operator("causal_conv1d", "forward", batch * length, heads * 64 + 2 * 8 * 128, 4)
                for kernel, operator, rate, first in (
                    (SCAN, scan, share, fixed),
                    (CONVOLUTION, convolution, 2 * share, fixed / 5),
                ):
                    seconds = first + operator.bytes() / DEVICE.memory_bandwidth / rate
                    # Short sequences are slower by far: they are left out.
                    seconds *= 100 if length == 512 else 1
                    row = f"b200_sxm,{kernel},{batch},{length},128,4,{heads},64,8,128,{seconds * 1e6}\n"
                    lines += [row, row.replace("b200_sxm", "other").replace(str(seconds * 1e6), "1")]
    path.write_text(HEADER + "".join(lines))
    return path


def test_the_fit_finds_what_made_the_times(tmp_path: Path) -> None:
    fit = fit_scans(DEVICE, read_scans(table(tmp_path / "t.csv"), "b200_sxm"))
    assert fit.efficiency["chunk_scan"] == pytest.approx(0.25, rel=0.02)
    assert fit.efficiency["causal_conv1d"] == pytest.approx(0.5, rel=0.02)
    assert fit.overhead_s["chunk_scan"] == pytest.approx(1e-5, rel=0.3)
    assert fit.sigma["chunk_scan"] < 0.02


def test_a_fixed_time_is_no_more_than_that_of_the_kernels(tmp_path: Path) -> None:
    fit = fit_scans(DEVICE, read_scans(table(tmp_path / "t.csv", fixed=1e-3), "b200_sxm"))
    assert fit.overhead_s["chunk_scan"] <= 5 * 4e-6 * (1 + 1e-9)
    assert fit.overhead_s["causal_conv1d"] <= 4e-6 * (1 + 1e-9)


def test_a_backward_scan_takes_as_much_longer_as_it_has_more_flops(tmp_path: Path) -> None:
    fit = fit_scans(DEVICE, read_scans(table(tmp_path / "t.csv", fixed=1e-9), "b200_sxm"))
    surface = DeviceSurface(DEVICE, Surfaces(efficiency=fit.efficiency))
    forward = Operator(
        "chunk_scan", "forward", n=128, k=128, batch=4, seq_q=4096, heads=64, kv_heads=8, head_dim=64, fused=True
    )
    backward = replace(forward, phase="backward")
    longer = surface.seconds(backward) / surface.seconds(forward)
    assert longer == pytest.approx(backward.flops() / forward.flops(), rel=0.03)
    assert 2 < longer < 3


def test_sections_of_a_preset(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv")
    result = vt.calibrate(mamba=path, device="b200-sxm-180gb", system="b200_sxm")
    assert '"chunk_scan/backward" = ' in result.toml
    assert "[surfaces.overhead_s]" in result.toml
    with pytest.raises(UserError, match="--mamba takes --device"):
        vt.calibrate(mamba=path)
    with pytest.raises(UserError, match="fewer than 20"):
        vt.calibrate(mamba=path, device="b200-sxm-180gb", system="h100_sxm")


@pytest.mark.parametrize("name", ["a100-sxm-80gb", "b200-sxm-180gb", "gb300-279gb", "h100-sxm-80gb"])
def test_presets_know_the_kernels(name: str) -> None:
    surfaces = Surfaces.from_dict(presets.device_surfaces(name))
    for kind in ("causal_conv1d", "chunk_scan", "transpose"):
        for phase in ("forward", "backward"):
            assert surfaces.coefficient(surfaces.efficiency, Operator(kind, phase), 1.0) < 0.8
        assert surfaces.coefficient(surfaces.sigma, Operator(kind, "forward"), 1.0) <= 0.3
