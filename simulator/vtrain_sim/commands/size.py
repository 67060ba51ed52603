"""``vtrain-sim size``: the largest compute-optimal model that trains in time."""

from __future__ import annotations

from pathlib import Path

import typer

from vtrain_sim.commands.notices import is_quiet
from vtrain_sim.commands.output import (
    FORMAT,
    REPORT,
    check_files,
    check_format,
    name_what_is_not_megatrons,
    show,
    write_files,
    write_report,
)


def size(
    cluster: str = typer.Option(..., "--cluster", help="Cluster preset, or a TOML or YAML file."),
    num_gpus: int = typer.Option(..., "--num-gpus", min=1, help="GPUs to train on."),
    days: float = typer.Option(..., "--days", help="Days to train for."),
    law: str = typer.Option(
        "chinchilla-20", "--law", help="Scaling law: chinchilla-20, hoffmann-approach-3, besiroglu."
    ),
    global_batch_size: str = typer.Option("1536,1920,2048", "--global-batch-size", help="Sequences per step to try."),
    seq_length: int = typer.Option(2048, "--seq-length", min=128, help="Tokens of a sequence."),
    vocab_size: int = typer.Option(51200, "--vocab-size", min=2, help="Size of the vocabulary."),
    max_tp: int = typer.Option(8, "--max-tp", min=1, help="Largest tensor parallel size."),
    attention_backend: str = typer.Option("flash", "--attention-backend", help="flash or unfused."),
    precision: str = typer.Option(
        "bf16", "--precision", help="bf16, fp16, fp32, fp8, fp8-blockwise, mxfp8, nvfp4, ..."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print vtrain.size/1 as JSON."),
    form: str = FORMAT,
    table_file: Path = typer.Option(None, "--table", help="Write the candidates to a .csv or .parquet file."),
    plot: Path = typer.Option(None, "--plot", help="Draw days against parameters: a .png, .svg or .pdf."),
    report: Path = REPORT,
) -> None:
    """Find the largest model that satisfies a scaling law at the MFU that its best plan really reaches."""
    from vtrain_sim.api import size as api
    from vtrain_sim.report.progress import counting

    check_files(table_file, plot, report)
    form = check_format(form, as_json)
    with counting("models planned", "in time", is_quiet()) as progress:
        result = api.size(
            cluster=cluster,
            num_gpus=num_gpus,
            days=days,
            law=law,
            global_batch_size=global_batch_size,
            seq_length=seq_length,
            vocab_size=vocab_size,
            max_tp=max_tp,
            attention_backend=attention_backend,
            precision=precision,
            progress=progress,
        )
    if result.chosen.plan is not None:
        name_what_is_not_megatrons(result.chosen.plan.projection.configuration)
    write_files(result, table_file, plot)
    write_report(report, result, cluster=cluster)
    show(result, form)
