"""The job that a command works on: its options, and how they are read."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vtrain_sim.commands.output import (
    name_approximations,
    name_defaults,
    name_notes,
    name_what_is_left_out,
    name_what_is_not_printed,
    name_what_was_understood,
)
from vtrain_sim.errors import UserError

if TYPE_CHECKING:
    from vtrain_sim.api.job import Job

CATALOG: Path = typer.Option(None, "--catalog", help="Catalog that holds the profile.")
RUN: list[str] = typer.Option([], "--run", help="Captured run to project from; repeat to pool several.")
CLUSTER: str = typer.Option("", "--cluster", help="Cluster preset, for example dgx-a100-80gb, or a TOML or YAML file.")
MODEL: str = typer.Option("", "--model", help="Model preset, for example gpt3-175b, or a Hugging Face config.json.")
MEGATRON_ARGS: Path = typer.Option(
    None, "--megatron-args", help="Launch script, list of Megatron's arguments, YAML or TOML configuration, checkpoint."
)
RUN_SCRIPT: bool = typer.Option(
    True, "--run-script/--no-run-script", help="Whether bash may run the launch script, in a sandbox, to read it."
)
SCRIPT_ARGS: str = typer.Option("", "--script-args", help="The launch script's own arguments, as one text.")
SPEC: Path = typer.Option(None, "--spec", help="YAML or TOML file with the same names as the flags.")
NUM_GPUS: int = typer.Option(0, "--num-gpus", help="World size (default: as the layout needs).")


def words_of(script_args: str) -> list[str]:
    """The words of --script-args. Raises `UserError`."""
    try:
        return shlex.split(script_args)
    except ValueError:
        raise UserError("--script-args has a quotation mark that is not closed") from None


def read_job(
    flags: list[str],
    catalog: Path | None,
    run: list[str],
    cluster: str,
    model: str,
    megatron_args: Path | None,
    spec: Path | None,
    num_gpus: int,
    run_script: bool = True,
    script_args: str = "",
    printed: bool = False,
) -> Job:
    """The job that the options of a command describe. printed: its flags will be. Raises `UserError`."""
    from vtrain_sim.api.flag_files import Given
    from vtrain_sim.api.job import job_from_given
    from vtrain_sim.inputs import presets

    if num_gpus < 0:
        raise UserError(f"--num-gpus is {num_gpus}: it must be 1 or more")
    given = Given(tuple(flags), cluster, model, num_gpus).over(spec, megatron_args, run_script, words_of(script_args))
    if not run and catalog is not None:
        raise UserError("--catalog needs --run: the run to project from (vtrain-catalog ls lists them)")
    if not run and not given.cluster:
        raise UserError(
            f"nothing to project on: give --catalog and --run, or --cluster ({', '.join(presets.names('clusters'))})"
        )
    try:
        job = job_from_given(given, catalog, run)
        if not job.configuration.model.name:
            job = job.called(given.name)
        if spec is not None or megatron_args is not None or model.endswith(".json"):
            name_what_was_understood(job.configuration)
    finally:
        # Also beside a refusal: they may say why.
        name_notes(given.notes)
    name_approximations(given.flags)
    if not run:
        name_defaults(given.flags, given.model)
    name_what_is_left_out(given.flags, given.model, job.configuration.model)
    if printed:
        name_what_is_not_printed(job.configuration, given.flags)
    return job
