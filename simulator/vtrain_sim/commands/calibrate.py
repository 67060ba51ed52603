"""``vtrain-sim calibrate``: fit a device's cost surfaces to measurement tables."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import typer


def calibrate(
    device: str = typer.Option(..., "--device", help="Device preset whose published peaks to use."),
    compute_units: int = typer.Option(..., min=1, help="Streaming multiprocessors of the device."),
    gemm: Path = typer.Option(..., "--gemm", help="Parquet or CSV with m, n, k, duration_us (and source)."),
    gemm_source: str = typer.Option("", help="Use only the rows of this source."),
    attention: Path = typer.Option(
        None, help="Parquet or CSV with batch_size, isl, num_heads, head_dim, latency (ms)."
    ),
    in_layer_source: str = typer.Option("", help="Source of --gemm that was timed inside a running layer."),
    attention_backward_ratio: float = typer.Option(2.9, min=1.0, help="Time of attention backward over forward."),
) -> None:
    """Fit GEMM tiles and waves and attention, and print the [surfaces] section of a device preset."""
    from vtrain_sim.costs import calibrate as fitting
    from vtrain_sim.specs import presets

    spec = presets.device(device)
    fit = fitting.fit_gemms(spec, compute_units, fitting.read_gemms(gemm, gemm_source))
    surfaces, report = fit.surfaces, list(fit.report)
    if in_layer_source:
        factor = fitting.in_layer_factor(spec, surfaces, fitting.read_gemms(gemm, in_layer_source))
        surfaces = replace(surfaces, efficiency={**surfaces.efficiency, "gemm": round(1 / factor, 4)})
        report.append(f"gemm inside a running layer: {factor:.3f} of the time alone")
    if attention is not None:
        fit = fitting.fit_attention(spec, surfaces, fitting.read_attention(attention))
        surfaces = fit.surfaces
        report += fit.report
        backward = surfaces.efficiency["attention/forward"] * 2 / attention_backward_ratio
        surfaces = replace(surfaces, efficiency={**surfaces.efficiency, "attention/backward": round(backward, 4)})
    for line in report:
        print(line, file=sys.stderr)
    print(fitting.to_toml(surfaces), end="")
