"""A file that describes a training, of whatever kind: a launch script, a list of arguments, a configuration."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vtrain_sim.inputs.checkpoint_args import is_checkpoint, read_checkpoint
from vtrain_sim.inputs.launch_script import Launch, is_list, read_launch, read_list, read_script
from vtrain_sim.inputs.script_run.resolve import resolve
from vtrain_sim.inputs.script_run.run import NoSandboxError
from vtrain_sim.inputs.spec_file import load
from vtrain_sim.inputs.torchtitan import is_torchtitan, read_torchtitan
from vtrain_sim.inputs.yaml_files import read_yaml
from vtrain_sim.specs.checks import SpecError

# Set to anything: no script is run, whatever the command says.
_NEVER = "VTRAIN_NO_RUN_SCRIPT"


def read_job_file(path: Path, run_script: bool = True, script_arguments: Sequence[str] = ()) -> Launch:
    """What a file, or the folder of a checkpoint, says of a training: Megatron's arguments and the number of processes.

    run_script: bash may run a launch script, where it can do no harm; else, and where the system does not allow that,
    the script is read without running it, and refused where its text alone does not say what it does.
    script_arguments: of the script. Raises `SpecError`.
    """
    if is_checkpoint(path):
        return read_checkpoint(path)
    if path.suffix in (".yaml", ".yml"):
        return read_yaml(path)
    if path.suffix == ".toml":
        return _read_toml(path)
    if path.suffix == ".json":
        raise SpecError(f"{path} says a model alone: give it with --model, and the rest with flags")
    text = read_script(path)
    if is_list(text):
        return read_list(text, path)
    if not run_script or os.environ.get(_NEVER):
        return read_launch(path, text, script_arguments)
    try:
        return _run(path, text, script_arguments)
    except NoSandboxError as error:
        launch = read_launch(path, text, script_arguments)
        note = f"{path} is read without running it: {error}"
        return replace(launch, notes=(note, *launch.notes))


def _run(path: Path, text: str, script_arguments: Sequence[str]) -> Launch:
    """What a script starts. Raises `SpecError`, `NoSandboxError`.

    One that comes through a pipe, for example of ``<(...)``, is run as if it lay in the current folder, where it was
    written.
    """
    if path.is_file():
        if "\0" in text:
            raise SpecError(f"cannot read {path}: it is not text")
        return resolve(path, text, script_arguments)
    place = Path.cwd() / path.name
    try:
        return resolve(place, text, script_arguments)
    except SpecError as error:
        raise SpecError(str(error).replace(str(place), str(path))) from None


def _read_toml(path: Path) -> Launch:
    table = load(path)
    if is_torchtitan(table):
        return read_torchtitan(table, path)
    raise SpecError(f"{path} is no configuration of torchtitan: give one of vtrain's own with --spec")
