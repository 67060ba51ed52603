"""``vtrain-sim plan``: the most cost-effective training plan."""

from __future__ import annotations

import json
import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vtrain_sim.errors import UserError
from vtrain_sim.whole_file import write_file

if TYPE_CHECKING:
    from vtrain_sim.decide import Bounds, Failures
    from vtrain_sim.specs import ModelSpec, TrainSpec


def plan(
    context: typer.Context,
    cluster: str = typer.Option(..., "--cluster", help="Cluster preset, or a TOML or YAML file."),
    model: str = typer.Option("", "--model", help="Model preset, or a Hugging Face config.json."),
    num_gpus: str = typer.Option("", "--num-gpus", help="Exact number of GPUs, or several: 512,1024."),
    max_gpus: int = typer.Option(0, "--max-gpus", min=0, help="Search all GPU counts up to this one."),
    global_batch_size: str = typer.Option("", "--global-batch-size", help="Sequences a step, or several: 1024,2048."),
    train_tokens: float = typer.Option(0.0, "--train-tokens", help="Tokens to train on."),
    price_per_gpu_hour: float = typer.Option(-1.0, "--price-per-gpu-hour", help="US dollars."),
    deadline_days: float = typer.Option(0.0, "--deadline-days", help="Drop plans that take longer."),
    rank_by: str = typer.Option("days", "--rank-by", help="days, dollars, time (of a step) or utilisation."),
    top: int = typer.Option(10, "--top", min=1, max=1000, help="Plans to print."),
    max_tp: int = typer.Option(8, "--max-tp", help="Largest tensor parallel size."),
    max_pp: int = typer.Option(1 << 16, "--max-pp", help="Largest pipeline parallel size."),
    max_dp: int = typer.Option(1 << 16, "--max-dp", help="Largest data parallel size."),
    max_cp: int = typer.Option(8, "--max-cp", help="Largest context parallel size."),
    max_ep: int = typer.Option(1 << 16, "--max-ep", help="Largest expert parallel size."),
    schedules: str = typer.Option("1f1b,interleaved", "--schedules", help="To try, also zb-h1, zb-h2, gpipe."),
    gpu_mtbf_hours: float = typer.Option(0.0, "--gpu-mtbf-hours", help="Mean time between failures of one GPU."),
    checkpoint_seconds: float = typer.Option(60.0, help="Time to write a checkpoint."),
    restart_seconds: float = typer.Option(600.0, help="Time from a failure until training goes on."),
    checkpoint_interval: float = typer.Option(0.0, help="Seconds between checkpoints (default: the best)."),
    as_json: bool = typer.Option(False, "--json", help="Print vtrain.plan/1 as JSON."),
    table_file: Path = typer.Option(None, "--table", help="Write the plans to a .csv or .parquet file."),
    plot: Path = typer.Option(None, "--plot", help="Draw days against dollars: a .png, .svg or .pdf."),
) -> None:
    """Search every layout of a model on a cluster, drop what does not fit, and rank the rest.

    Megatron's flags, where given, are kept as they are: the model's sizes, kernels and precision, and any
    parallel size or micro batch that is not to be searched.
    """
    from vtrain_sim.costs.surfaces import Surfaces
    from vtrain_sim.decide import Request
    from vtrain_sim.decide import plan as search
    from vtrain_sim.inputs.lookup import find_cluster
    from vtrain_sim.report.progress import counting
    from vtrain_sim.report.rows import check_name, write_rows
    from vtrain_sim.simulate.projection import Projector

    if table_file is not None:
        check_name(table_file)
    machine, surfaces = find_cluster(cluster)
    if price_per_gpu_hour >= 0:
        machine = replace(machine, price_per_gpu_hour=price_per_gpu_hour)
    what, base, bounds = searched(context.args, model, (max_tp, max_pp, max_dp, max_cp, max_ep), schedules)
    request = Request(
        what,
        numbers("--global-batch-size", global_batch_size),
        train_tokens,
        numbers("--num-gpus", num_gpus),
        max_gpus,
        bounds,
        base,
        rank_by,
        deadline_days,
        failures(gpu_mtbf_hours, checkpoint_seconds, restart_seconds, checkpoint_interval),
    )
    projector = Projector.modelled(machine, Surfaces.from_dict(surfaces))
    with counting("plans evaluated", "feasible", quiet=as_json) as progress:
        result = search(request, projector, top, progress)
    if table_file is not None:
        rows = [{**p.to_dict(), "megatron_args": shlex.join(p.to_dict()["megatron_args"])} for p in result.plans]
        write_file(table_file, lambda stream: write_rows(stream, table_file.suffix, rows))
    if plot is not None:
        from vtrain_sim.report.plan import draw_plans

        draw_plans(plot, result)
    if as_json:
        print(json.dumps(result.to_dict(), indent=2))
        return
    from vtrain_sim.report.plan import print_plans
    from vtrain_sim.report.tables import console

    print_plans(result, console())


def numbers(flag: str, text: str) -> tuple[int, ...]:
    """A list of whole numbers: ``512`` or ``512,1024``."""
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UserError(f"{flag} is {text!r}: it takes a whole number, or several separated by commas") from None


def failures(mtbf: float, checkpoint: float, restart: float, interval: float) -> Failures | None:
    """Failures, where the time between them was given."""
    from vtrain_sim.decide import Failures

    if not mtbf:
        if interval:
            raise UserError("--checkpoint-interval needs --gpu-mtbf-hours: without failures no checkpoint is written")
        return None
    return Failures(mtbf, checkpoint, restart, interval)


def searched(
    flags: list[str], model: str, most: tuple[int, int, int, int, int], schedules: str
) -> tuple[ModelSpec, TrainSpec, Bounds]:
    """The model, the training step and the bounds of a search, from Megatron's flags."""
    from vtrain_sim.decide import Bounds
    from vtrain_sim.inputs.lookup import find_model
    from vtrain_sim.inputs.megatron_flags import model_from_flags, parse_flags, step_from_values
    from vtrain_sim.specs import ParallelSpec, TrainSpec
    from vtrain_sim.specs.train import SCHEDULES
    from vtrain_sim.specs.validation import one_of

    names = tuple(schedules.split(","))
    for name in names:
        one_of("--schedules", name, SCHEDULES[1:])
    values: dict[str, Any] = dict(parse_flags(flags).values)
    if "layers_per_chunk" in values or "pipeline_layout" in values:
        raise UserError(
            "a search chooses the layers of each stage: fix the chunks with --num-virtual-stages-per-pipeline-rank, "
            "or use project"
        )
    what = model_from_flags(values, find_model(model) if model else None)
    own = step_from_values({**values, "micro_batch_size": 1, "global_batch_size": 1})
    searchable = {f.name for f in fields(ParallelSpec)} | {"micro_batch_size", "recompute_granularity"}
    fixed = {k: v for k, v in values.items() if k in searchable}
    bounds = Bounds(*most, schedules=names, fixed=tuple(sorted(fixed.items())))
    if "micro_batch_size" in fixed:
        bounds = replace(bounds, micro_batches=(int(fixed["micro_batch_size"]),))
    if "recompute_granularity" in fixed:
        bounds = replace(bounds, recompute=(str(fixed["recompute_granularity"]),))
    return what, TrainSpec(**own), bounds
