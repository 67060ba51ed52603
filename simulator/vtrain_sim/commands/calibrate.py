"""``vtrain-sim calibrate``: fit a device's cost surfaces, and a network, to measurement tables."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from vtrain_sim.commands.output import show


def calibrate(
    device: str = typer.Option("", "--device", help="Device preset whose published peaks to use."),
    compute_units: int = typer.Option(0, min=0, help="Streaming multiprocessors of the device."),
    gemm: Path = typer.Option(None, "--gemm", help="Parquet or CSV with m, n, k and duration_us or latency (ms)."),
    gemm_source: str = typer.Option("", help="Use only the rows of this source."),
    gemm_dtype: str = typer.Option("", help="Use only the rows with this gemm_dtype."),
    fp8_gemm_dtype: str = typer.Option("", help="gemm_dtype of the rows of --gemm to fit 8-bit products to."),
    attention: Path = typer.Option(
        None, help="Parquet or CSV with batch_size, isl, num_heads, head_dim, latency (ms)."
    ),
    in_layer_source: str = typer.Option("", help="Source of --gemm that was timed inside a running layer."),
    attention_backward_ratio: float = typer.Option(2.9, min=1.0, help="Time of attention backward over forward."),
    catalog: Path = typer.Option(None, "--catalog", help="Fit to a profile of your own instead of tables."),
    run: list[str] = typer.Option([], "--run", help="Run in the catalog; repeat to pool several."),
    collectives: Path = typer.Option(
        None, "--collectives", help="Parquet or CSV with collective, gpus, nodes, bytes, duration_us."
    ),
    collectives_source: str = typer.Option("", help="Use only the rows whose source has this in it."),
    cluster: str = typer.Option("", "--cluster", help="Cluster preset or file that --collectives were measured on."),
) -> None:
    """Fit GEMM tiles and waves, attention, memory-bound kinds or a network; prints sections of a preset."""
    from vtrain_sim.api import calibrate as api

    result = api.calibrate(
        device=device,
        compute_units=compute_units,
        gemm=gemm,
        gemm_source=gemm_source,
        gemm_dtype=gemm_dtype,
        fp8_gemm_dtype=fp8_gemm_dtype,
        attention=attention,
        in_layer_source=in_layer_source,
        attention_backward_ratio=attention_backward_ratio,
        catalog=catalog,
        run=run,
        collectives=collectives,
        collectives_source=collectives_source,
        cluster=cluster,
    )
    for line in result.report:
        print(line, file=sys.stderr)
    show(result, "table")
