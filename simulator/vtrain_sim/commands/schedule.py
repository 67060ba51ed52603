"""``vtrain-sim schedule``: many training jobs on one cluster."""

from __future__ import annotations

from pathlib import Path

import typer

from vtrain_sim.commands.job import RUN_SCRIPT
from vtrain_sim.commands.notices import is_quiet
from vtrain_sim.commands.output import (
    FORMAT,
    REPORT,
    check_files,
    check_format,
    name_notes,
    show,
    write_files,
    write_report,
)

NAMES = "presets, config.json files, launch scripts, specs, or run:ID with --catalog"
POLICIES = (
    "Policies to compare: fifo, srtf, edf, elasticflow, elastic-plans, priority, tiresias, gandiva, pollux, or another "
    "package's."
)
_MODELS = "gpt3-1.3b,gpt3-2.7b,gpt3-6.7b,gpt3-13b,megatron-22b"


def schedule(
    cluster: str = typer.Option(..., "--cluster", help="Cluster preset, or a TOML or YAML file."),
    num_gpus: int = typer.Option(..., "--num-gpus", min=1, help="GPUs of the cluster."),
    trace: Path = typer.Option(
        None, "--trace", help="Jobs: a .csv or .parquet file, or a published trace of a cluster."
    ),
    trace_format: str = typer.Option(
        "",
        "--trace-format",
        help="Of a published trace: philly, helios, acme, alibaba-2020, alibaba-2023 (default: as its columns tell).",
    ),
    jobs: int = typer.Option(0, "--jobs", min=0, max=1_000_000, help="Make a random trace of so many jobs instead."),
    seeds: str = typer.Option(
        "1", "--seeds", help="Seeds of random traces and of failures, several: 1,2,3 (figures are means)."
    ),
    models: str = typer.Option(_MODELS, "--models", help=f"Models of a random or published trace: {NAMES}."),
    global_batch_size: str = typer.Option(
        "", "--global-batch-size", help="Global batches of these models (default: the job's own, or 512)."
    ),
    catalog: Path = typer.Option(None, "--catalog", help="Catalog of the captured runs among the models (run:ID)."),
    run_script: bool = RUN_SCRIPT,
    load: float = typer.Option(1.0, "--load", help="GPU-seconds requested over those there are, of a random trace."),
    mean_hours: float = typer.Option(12.0, "--mean-hours", help="Mean duration of a job in a random trace."),
    no_deadlines: bool = typer.Option(False, "--no-deadlines", help="Jobs of a random trace have no deadline."),
    policies: str = typer.Option("fifo,srtf,edf,elasticflow,elastic-plans", "--policies", help=POLICIES),
    restart_seconds: float = typer.Option(
        None,
        "--restart-seconds",
        help="Checkpoint and restart, on a change of GPUs (default: 60; of the model's size with "
        "--checkpoint-bandwidth or --gpu-mtbf-hours).",
    ),
    checkpoint_bandwidth: float = typer.Option(
        0.0, "--checkpoint-bandwidth", help="GB/s at which one node writes and reads checkpoints (where used: 5)."
    ),
    gpu_counts: str = typer.Option(
        "",
        "--gpu-counts",
        help="Numbers of GPUs that a job may have, beside those requested (default: powers of two, the whole cluster).",
    ),
    placement: str = typer.Option(
        "ideal",
        "--placement",
        help="On which nodes gangs go: packed, consolidated (wait for as few nodes as hold them), spread; or ideal: "
        "counted only, as fast as consolidated.",
    ),
    migrate: bool = typer.Option(
        False, "--migrate", help="Gangs on more nodes than needed move, where that saves more than it costs."
    ),
    quotas: str = typer.Option(
        "", "--quotas", help="GPUs that are a tenant's own: a=256,b=128, or a file of such; idle ones are lent."
    ),
    gpu_mtbf_hours: float = typer.Option(
        0.0, "--gpu-mtbf-hours", min=0, help="Mean time between failures of one GPU, which take its node out; 0: none."
    ),
    repair_hours: float = typer.Option(None, "--repair-hours", help="Until a node that failed is back (default: 4)."),
    as_json: bool = typer.Option(False, "--json", help="Print vtrain.schedule/1 as JSON."),
    form: str = FORMAT,
    table_file: Path = typer.Option(
        None, "--table", help="Write every stretch of every job to a .csv or .parquet file."
    ),
    save_trace: Path = typer.Option(None, "--save-trace", help="Write the (last) trace to a .csv or .parquet file."),
    plot: Path = typer.Option(None, "--plot", help="Draw who runs when (last trace): a .png, .svg or .pdf."),
    report: Path = REPORT,
) -> None:
    """Simulate a trace of jobs under several policies; speeds come from the best plan at each GPU count.

    A model, also in a trace, is a preset or a job: of a launch script, spec or captured run the training step is kept,
    and the layout searched.
    """
    from vtrain_sim.api import schedule as api
    from vtrain_sim.report.progress import counting

    check_files(table_file, plot, report)
    check_files(save_trace)
    form = check_format(form, as_json)
    with counting("kinds of jobs planned", "in all", is_quiet()) as progress:
        result = api.schedule(
            cluster=cluster,
            num_gpus=num_gpus,
            trace=trace,
            trace_format=trace_format,
            jobs=jobs,
            seeds=seeds,
            models=models,
            global_batch_size=global_batch_size or None,
            load=load,
            mean_hours=mean_hours,
            no_deadlines=no_deadlines,
            policies=policies,
            restart_seconds=restart_seconds,
            checkpoint_bandwidth=checkpoint_bandwidth,
            gpu_counts=gpu_counts or None,
            placement=placement,
            migrate=migrate,
            quotas=quotas or None,
            gpu_mtbf_hours=gpu_mtbf_hours,
            repair_hours=repair_hours,
            catalog=catalog,
            run_script=run_script,
            noted=lambda sentence: name_notes([sentence]),
            progress=progress,
        )
    write_files(result.trace(), save_trace)
    write_files(result.stretches(), table_file)
    write_files(result, None, plot)
    write_report(report, result)
    show(result, form)
