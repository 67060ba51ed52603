"""``vtrain-sim calibrate``: fit a device's cost surfaces, and a network, to measurement tables."""

from __future__ import annotations

from pathlib import Path

import typer

from vtrain_schemas.operators import ELEMENT_TYPES
from vtrain_sim.commands.notices import notice
from vtrain_sim.commands.output import JSON, REPORT, check_files, show, write_report
from vtrain_sim.errors import UserError


def calibrate(
    device: str = typer.Option("", "--device", help="Device preset whose published peaks to use."),
    compute_units: int = typer.Option(0, min=0, help="Streaming multiprocessors of the device."),
    gemm: Path = typer.Option(None, "--gemm", help="Parquet or CSV with m, n, k and duration_us or latency (ms)."),
    gemm_source: str = typer.Option("", help="Use only the rows of this source."),
    gemm_dtype: str = typer.Option("", help="Use only the rows with this gemm_dtype."),
    product: list[str] = typer.Option(
        [], "--product", help="TYPE=ROWS: fit products in TYPE to the rows of --gemm whose gemm_dtype is ROWS; repeat."
    ),
    system: str = typer.Option("", help="Use only the rows of this system."),
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
    exchanges: Path = typer.Option(
        None, "--exchanges", help="Parquet or CSV of token exchanges: DeepEP's columns, or those of NVLink all-to-all."
    ),
    experts: Path = typer.Option(
        None, "--experts", help="Parquet or CSV of whole expert blocks: num_tokens, hidden_size, inter_size, topk, ..."
    ),
    latent_attention: Path = typer.Option(
        None, "--latent-attention", help="Parquet or CSV with batch_size, seq_length, num_heads, dtype, duration_us."
    ),
    mamba: Path = typer.Option(
        None, "--mamba", help="Parquet or CSV of Mamba2 kernels: kernel_source, batch_size, seq_len, nheads, ..."
    ),
    ranks_per_node: int = typer.Option(8, min=1, help="Ranks of a node of --exchanges."),
    cluster: str = typer.Option(
        "", "--cluster", help="Cluster preset or file that --collectives or --exchanges were measured on."
    ),
    as_json: bool = JSON,
    report: Path = REPORT,
) -> None:
    """Fit GEMM tiles and waves, attention, memory-bound kinds or a network; prints sections of a preset."""
    from vtrain_sim.api import calibrate as api

    check_files(None, None, report)
    result = api.calibrate(
        device=device,
        compute_units=compute_units,
        gemm=gemm,
        gemm_source=gemm_source,
        gemm_dtype=gemm_dtype,
        products=_products(product),
        system=system,
        attention=attention,
        in_layer_source=in_layer_source,
        attention_backward_ratio=attention_backward_ratio,
        catalog=catalog,
        run=run,
        collectives=collectives,
        collectives_source=collectives_source,
        exchanges=exchanges,
        experts=experts,
        latent_attention=latent_attention,
        mamba=mamba,
        ranks_per_node=ranks_per_node,
        cluster=cluster,
    )
    for line in result.report:
        notice(line)
    write_report(report, result)
    show(result, "json" if as_json else "table")


def _products(texts: list[str]) -> dict[str, str]:
    products = dict(text.partition("=")[::2] for text in texts)
    if wrong := [dtype for dtype, rows in products.items() if not rows or dtype not in ELEMENT_TYPES]:
        raise UserError(
            f"--product is {wrong[0]!r}: it takes TYPE=ROWS, with one of {', '.join(ELEMENT_TYPES)} as TYPE"
        )
    return products
