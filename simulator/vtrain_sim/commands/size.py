"""``vtrain-sim size``: the largest compute-optimal model that trains in time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer

from vtrain_schemas.option_groups import with_groups
from vtrain_sim.commands.job import Sources
from vtrain_sim.commands.notices import is_quiet
from vtrain_sim.commands.output import (
    FORMAT,
    REPORT,
    check_files,
    check_format,
    name_notes,
    name_what_is_not_printed,
    show,
    write_files,
    write_report,
)

_MODEL: str = typer.Option(
    "", "--model", help="Model preset, or a Hugging Face config.json, whose sequence length and vocabulary are kept."
)


@dataclass(frozen=True)
class _Sources(Sources):
    model: str = _MODEL


@with_groups
def size(
    *,
    source: _Sources,
    num_gpus: str = typer.Option(
        "", "--num-gpus", help="GPUs to train on (default: those of the job), or several to choose from: 512,1024."
    ),
    days: float = typer.Option(..., "--days", help="Days to train for."),
    shape: str = typer.Option(
        "gpt",
        "--shape",
        help="What models look like: gpt, llama, mixtral, qwen3-moe, or a preset whose proportions are kept.",
    ),
    law: str = typer.Option(
        "chinchilla-20",
        "--law",
        help="Scaling law: chinchilla-20, hoffmann-approach-1, -2 or -3, besiroglu; a .toml or .yaml file; or its "
        "coefficients: coefficient=,exponent= or E=,A=,B=,alpha=,beta=.",
    ),
    tokens_per_parameter: float = typer.Option(
        0.0, "--tokens-per-parameter", help="Training tokens per parameter, instead of the law's."
    ),
    inference_tokens: float = typer.Option(
        0.0, "--inference-tokens", help="Tokens served over the model's life, weighed against its training."
    ),
    inference_mfu: float = typer.Option(
        0.0, "--inference-mfu", help="MFU at which they are served, 0 to 1 (default: FLOPs are weighed, not GPU-hours)."
    ),
    global_batch_size: str = typer.Option(
        "", "--global-batch-size", help="Sequences per step to try (default: the job's, or 1536,1920,2048)."
    ),
    seq_length: int = typer.Option(
        None, "--seq-length", min=128, help="Tokens of a sequence (default: the job's, or the shape's)."
    ),
    vocab_size: int = typer.Option(
        None, "--vocab-size", min=2, help="Size of the vocabulary (default: the job's, or the shape's)."
    ),
    max_tp: int = typer.Option(8, "--max-tp", min=1, help="Largest tensor parallel size."),
    attention_backend: str = typer.Option(
        None, "--attention-backend", help="flash or unfused (default: the job's, or flash)."
    ),
    precision: str = typer.Option(
        None,
        "--precision",
        help="bf16, fp16, fp32, fp8, fp8-blockwise, mxfp8, nvfp4, ... (default: the job's, or bf16).",
    ),
    gpu_mtbf_hours: float = typer.Option(0.0, "--gpu-mtbf-hours", help="Mean time between failures of one GPU."),
    checkpoint_seconds: float = typer.Option(60.0, help="Time to write a checkpoint."),
    restart_seconds: float = typer.Option(600.0, help="Time from a failure until training goes on."),
    checkpoint_interval: float = typer.Option(0.0, help="Seconds between checkpoints (default: the best)."),
    price_per_gpu_hour: float = typer.Option(None, "--price-per-gpu-hour", help="US dollars."),
    as_json: bool = typer.Option(False, "--json", help="Print vtrain.size/1 as JSON."),
    form: str = FORMAT,
    table_file: Path = typer.Option(None, "--table", help="Write the candidates to a .csv or .parquet file."),
    plot: Path = typer.Option(None, "--plot", help="Draw days against parameters: a .png, .svg or .pdf."),
    report: Path = REPORT,
) -> None:
    """Find the largest model that satisfies a scaling law at the MFU that its best plan really reaches.

    Of a job (--megatron-args, --spec, --catalog and --run) the training step is kept: sequence length, vocabulary,
    precision, global batch, recomputation and the rest; the size of its model is what is looked for, its layout is
    searched. What contradicts the job is refused.
    """
    from vtrain_sim.api import size as api
    from vtrain_sim.api.flag_files import Given
    from vtrain_sim.api.sized_job import of_job
    from vtrain_sim.report.progress import counting

    check_files(table_file, plot, report)
    form = check_format(form, as_json)
    given = source.over_files(Given((), source.cluster, source.model))
    name_notes(given.notes)
    flags, machine, gpus = of_job(given, source.catalog, source.run, bool(num_gpus))
    with counting("models planned", "in time", is_quiet()) as progress:
        result = api.size(
            cluster=machine,
            num_gpus=num_gpus or gpus,
            days=days,
            shape=shape,
            law=law,
            tokens_per_parameter=tokens_per_parameter,
            inference_tokens=inference_tokens,
            inference_mfu=inference_mfu,
            global_batch_size=global_batch_size or None,
            seq_length=seq_length,
            vocab_size=vocab_size,
            max_tp=max_tp,
            attention_backend=attention_backend,
            precision=precision,
            gpu_mtbf_hours=gpu_mtbf_hours,
            checkpoint_seconds=checkpoint_seconds,
            restart_seconds=restart_seconds,
            checkpoint_interval=checkpoint_interval,
            price_per_gpu_hour=price_per_gpu_hour,
            flags=flags,
            model=given.model,
            noted=lambda sentence: name_notes([sentence]),
            progress=progress,
        )
    if result.chosen.plan is not None:
        name_what_is_not_printed(result.chosen.plan.projection.configuration, given.flags)
    write_files(result, table_file, plot)
    write_report(report, result, cluster=machine)
    show(result, form)
