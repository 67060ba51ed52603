"""``vtrain-sim plan``: the most cost-effective training plan."""

from __future__ import annotations

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
    name_approximations,
    name_notes,
    name_what_is_left_out,
    name_what_is_not_printed,
    show,
    write_files,
    write_report,
)
from vtrain_sim.commands.workers import ADDRESS, EXECUTOR, PROCESSES
from vtrain_sim.errors import UserError


@with_groups
def plan(
    context: typer.Context,
    *,
    source: Sources,
    num_gpus: str = typer.Option("", "--num-gpus", help="Exact number of GPUs, or several: 512,1024."),
    max_gpus: int = typer.Option(0, "--max-gpus", min=0, help="Search all GPU counts up to this one."),
    global_batch_size: str = typer.Option("", "--global-batch-size", help="Sequences per step, or several: 1024,2048."),
    train_tokens: float = typer.Option(0.0, "--train-tokens", help="Tokens to train on."),
    price_per_gpu_hour: float = typer.Option(None, "--price-per-gpu-hour", help="US dollars."),
    deadline_days: float = typer.Option(0.0, "--deadline-days", help="Drop plans that take longer."),
    rank_by: str = typer.Option("days", "--rank-by", help="days, dollars, time (of a step) or mfu."),
    top: int = typer.Option(10, "--top", min=1, max=1000, help="Plans to print."),
    max_tp: int = typer.Option(8, "--max-tp", help="Largest tensor parallel size."),
    max_pp: int = typer.Option(1 << 16, "--max-pp", help="Largest pipeline parallel size."),
    max_dp: int = typer.Option(1 << 16, "--max-dp", help="Largest data parallel size."),
    max_cp: int = typer.Option(8, "--max-cp", help="Largest context parallel size."),
    max_ep: int = typer.Option(1 << 16, "--max-ep", help="Largest expert parallel size."),
    schedules: str = typer.Option(
        "1f1b,interleaved",
        "--schedules",
        help="To try: 1f1b, interleaved, zb-h1, zb-h2, zb-v, dualpipe, dualpipev, gpipe.",
    ),
    search: str = typer.Option("default", "--search", help="Choices beside sizes and schedules, by name."),
    exhaustive: bool = typer.Option(False, "--exhaustive", help="Project all candidates, also those that cannot win."),
    processes: int = PROCESSES,
    executor: str = EXECUTOR,
    address: str = ADDRESS,
    gpu_mtbf_hours: float = typer.Option(0.0, "--gpu-mtbf-hours", help="Mean time between failures of one GPU."),
    checkpoint_seconds: float = typer.Option(60.0, help="Time to write a checkpoint."),
    restart_seconds: float = typer.Option(600.0, help="Time from a failure until training goes on."),
    checkpoint_interval: float = typer.Option(0.0, help="Seconds between checkpoints (default: the best)."),
    allow_tight: bool = typer.Option(False, "--allow-tight", help="Also plans with less than 6% of memory to spare."),
    as_json: bool = typer.Option(False, "--json", help="Print vtrain.plan/1 as JSON."),
    form: str = FORMAT,
    table_file: Path = typer.Option(None, "--table", help="Write the plans to a .csv or .parquet file."),
    plot: Path = typer.Option(None, "--plot", help="Draw days against dollars: a .png, .svg or .pdf."),
    report: Path = REPORT,
) -> None:
    """Search every layout of a model on a cluster, drop what does not fit, and rank the rest.

    A launch script, a spec file or a captured run (--catalog, --run) says the model and the training step; its layout
    is searched, on the run's own machine or on --cluster with its measured times, and the run's own layout is ranked.
    Megatron's flags, where given, are kept as they are: the model's sizes, kernels and precision, and any parallel size
    or micro batch that is not to be searched.

    Choices of --search, several with commas: expert-tp, tp-overlap, moe-overlap, recompute-modules, recompute-layers,
    sharding (these are the default), dispatcher, precision, cuda-graphs, offload, cp-comm, optimizer-state,
    optimizer-offload, gradients, buckets.
    """
    from vtrain_sim.api import plan as api
    from vtrain_sim.api.flag_files import Given
    from vtrain_sim.api.job import Job
    from vtrain_sim.api.plan import UNNAMED, of_runs, own_of
    from vtrain_sim.inputs import presets
    from vtrain_sim.inputs.notes import vocabulary_assumed
    from vtrain_sim.report.progress import counting

    check_files(table_file, plot, report)
    form = check_format(form, as_json)
    described = source.over_files(Given())
    files, batch = described.to_search()
    given = Given(tuple(context.args), source.cluster, source.model).before(files)
    if source.catalog is not None and not source.run:
        raise UserError("--catalog needs --run: the run to plan for (vtrain-catalog ls lists them)")
    if not source.run and not given.cluster:
        raise UserError(
            f"nothing to plan on: give --cluster ({', '.join(presets.names('clusters'))}), or --catalog and --run"
        )
    if not num_gpus and not max_gpus:
        given.check_gpus()
        num_gpus = str(given.gpus or "")
    flags = list(given.flags)
    name_notes(given.notes)
    name_approximations(flags)
    planned, machine = of_runs(source.catalog, source.run, given) if source.run else (given.model, given.cluster)
    with counting("plans evaluated", "feasible", is_quiet()) as progress:
        result = api.plan(
            planned,
            cluster="" if isinstance(planned, Job) else machine,
            num_gpus=num_gpus,
            max_gpus=max_gpus,
            global_batch_size=global_batch_size or str(batch or ""),
            train_tokens=train_tokens or given.train_tokens,
            price_per_gpu_hour=given.price_per_gpu_hour if price_per_gpu_hour is None else price_per_gpu_hour,
            deadline_days=deadline_days,
            rank_by=rank_by,
            top=top,
            max_tp=max_tp,
            max_pp=max_pp,
            max_dp=max_dp,
            max_cp=max_cp,
            max_ep=max_ep,
            schedules=schedules,
            gpu_mtbf_hours=gpu_mtbf_hours,
            checkpoint_seconds=checkpoint_seconds,
            restart_seconds=restart_seconds,
            checkpoint_interval=checkpoint_interval,
            search=search,
            exhaustive=exhaustive,
            processes=processes,
            executor=executor,
            address=address,
            allow_tight=allow_tight,
            flags=flags,
            own=own_of(described, given),
            own_name=file.name if (file := source.megatron_args or source.spec) is not None else UNNAMED,
            progress=progress,
        )
    if not source.run:
        name_notes(vocabulary_assumed(flags, given.model))
    name_what_is_left_out(flags, given.model, result.request.model)
    name_what_is_not_printed(result.plans[0].projection.configuration, flags)
    write_files(result, table_file, plot)
    write_report(report, result, cluster=machine)
    show(result, form)
