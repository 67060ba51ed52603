"""``vtrain-sim project``: what one configuration would do."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vtrain_sim.commands.output import FORMAT, check_format, name_approximations, name_what_is_left_out, show
from vtrain_sim.errors import UserError

if TYPE_CHECKING:
    from vtrain_sim.api.job import Job


def project(
    context: typer.Context,
    catalog: Path = typer.Option(None, "--catalog", help="Catalog that holds the profile."),
    run: list[str] = typer.Option([], "--run", help="Captured run to project from; repeat to pool several."),
    cluster: str = typer.Option(
        "", "--cluster", help="Cluster preset, for example dgx-a100-80gb, or a TOML or YAML file."
    ),
    model: str = typer.Option(
        "", "--model", help="Model preset, for example gpt3-175b, or a Hugging Face config.json."
    ),
    megatron_args: Path = typer.Option(
        None, "--megatron-args", help="Launch script, or file with Megatron's arguments."
    ),
    spec: Path = typer.Option(None, "--spec", help="YAML or TOML file with the same names as the flags."),
    num_gpus: int = typer.Option(0, "--num-gpus", help="World size (default: as the layout needs)."),
    train_tokens: float = typer.Option(None, "--train-tokens", help="Tokens to train on: days and dollars."),
    price_per_gpu_hour: float = typer.Option(None, "--price-per-gpu-hour", help="US dollars."),
    as_json: bool = typer.Option(False, "--json", help="Print vtrain.projection/1 as JSON."),
    form: str = FORMAT,
    emit_megatron: bool = typer.Option(False, "--emit-megatron", help="Print Megatron's flags and stop."),
) -> None:
    """Project a configuration, given with Megatron's own flags.

    From a captured run (--catalog, --run), where the flags say what changes; or from bundled data
    (--cluster, with --model or the model's flags). With both a run and a cluster, the run's measurements
    sharpen the cluster's device: so do those of a torch.profiler or Nsight Systems trace. Flags on the
    command line go before those of files.
    """
    from vtrain_sim.api import project as api

    form = check_format(form, as_json)
    job = read_job(context.args, catalog, run, cluster, model, megatron_args, spec, num_gpus)
    if emit_megatron:
        print(shlex.join(job.flags()))
        return
    show(api.project(job, train_tokens, price_per_gpu_hour), form)


def read_job(
    flags: list[str],
    catalog: Path | None,
    run: list[str],
    cluster: str,
    model: str,
    megatron_args: Path | None,
    spec: Path | None,
    num_gpus: int,
) -> Job:
    """The job that the options of a command describe. Raises `UserError`."""
    from vtrain_sim.api.flag_files import Given
    from vtrain_sim.api.job import job_from_given
    from vtrain_sim.inputs import presets

    if num_gpus < 0:
        raise UserError(f"--num-gpus is {num_gpus}: it must be 1 or more")
    given = Given(tuple(flags), cluster, model, num_gpus).over(spec, megatron_args)
    name_approximations(given.flags)
    if not run and catalog is not None:
        raise UserError("--catalog needs --run: the run to project from (vtrain-catalog ls lists them)")
    if not run and not given.cluster:
        raise UserError(
            f"nothing to project on: give --catalog and --run, or --cluster ({', '.join(presets.names('clusters'))})"
        )
    job = job_from_given(given, catalog, run)
    name_what_is_left_out(given.flags, given.model, job.configuration.model)
    return job
