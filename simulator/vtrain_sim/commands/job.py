"""The job that a command works on: its options, and how they are read."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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
    from vtrain_sim.api.flag_files import Given
    from vtrain_sim.api.job import Job

CATALOG: Path | None = typer.Option(None, "--catalog", help="Catalog that holds the profile.")
RUN: list[str] = typer.Option([], "--run", help="Captured run to project from; repeat to pool several.")
CLUSTER: str = typer.Option("", "--cluster", help="Cluster preset, for example dgx-a100-80gb, or a TOML or YAML file.")
MODEL: str = typer.Option("", "--model", help="Model preset, for example gpt3-175b, or a Hugging Face config.json.")
MEGATRON_ARGS: Path | None = typer.Option(
    None, "--megatron-args", help="Launch script, list of Megatron's arguments, YAML or TOML configuration, checkpoint."
)
RUN_SCRIPT: bool = typer.Option(
    True, "--run-script/--no-run-script", help="Whether bash may run the launch script, in a sandbox, to read it."
)
SCRIPT_ARGS: str = typer.Option("", "--script-args", help="The launch script's own arguments, as one text.")
SPEC: Path | None = typer.Option(None, "--spec", help="YAML or TOML file with the same names as the flags.")
NUM_GPUS: int = typer.Option(0, "--num-gpus", help="World size (default: as the layout needs).")


class ScriptReading(NamedTuple):
    """How launch scripts are read: whether bash may run them, and their own arguments."""

    runs: bool
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Sources:
    """Files and presets that say what a job is, beside Megatron's flags."""

    catalog: Path | None = CATALOG
    run: list[str] = RUN
    cluster: str = CLUSTER
    model: str = MODEL
    megatron_args: Path | None = MEGATRON_ARGS
    run_script: bool = RUN_SCRIPT
    script_args: str = SCRIPT_ARGS
    spec: Path | None = SPEC

    @property
    def script(self) -> ScriptReading:
        """How launch scripts are read. Raises `UserError`."""
        try:
            return ScriptReading(self.run_script, tuple(shlex.split(self.script_args)))
        except ValueError:
            raise UserError("--script-args has a quotation mark that is not closed") from None

    def over_files(self, given: Given) -> Given:
        """What is given, on top of what the spec file and the launch script say. Raises `UserError`."""
        return given.over(self.spec, self.megatron_args, *self.script)


@dataclass(frozen=True)
class JobOptions(Sources):
    """What says which job a command is about, beside Megatron's flags."""

    num_gpus: int = NUM_GPUS

    def given(self, flags: Sequence[str]) -> Given:
        """All that is said of the job. flags: Megatron's. Raises `UserError`."""
        from vtrain_sim.api.flag_files import Given

        if self.num_gpus < 0:
            raise UserError(f"--num-gpus is {self.num_gpus}: it must be 1 or more")
        return self.over_files(Given(tuple(flags), self.cluster, self.model, self.num_gpus))

    def read(self, flags: Sequence[str], printed: bool = False) -> Job:
        """The job. flags: Megatron's. printed: its flags will be. Raises `UserError`."""
        from vtrain_sim.api.job import job_from_given
        from vtrain_sim.inputs import presets
        from vtrain_sim.inputs.lookup import is_config

        given = self.given(flags)
        if not self.run and self.catalog is not None:
            raise UserError("--catalog needs --run: the run to project from (vtrain-catalog ls lists them)")
        if not self.run and not given.cluster:
            known = ", ".join(presets.names("clusters"))
            raise UserError(f"nothing to project on: give --catalog and --run, or --cluster ({known})")
        try:
            job = job_from_given(given, self.catalog, self.run)
            if not job.configuration.model.name:
                job = job.called(given.name)
            if self.spec is not None or self.megatron_args is not None or is_config(self.model):
                name_what_was_understood(job.configuration)
        finally:
            # Also beside a refusal: they may say why.
            name_notes(given.notes)
        name_approximations(given.flags)
        if not self.run:
            name_defaults(given.flags, given.model)
        name_what_is_left_out(given.flags, given.model, job.configuration.model, job.configuration)
        if printed:
            name_what_is_not_printed(job.configuration, given.flags)
        return job
