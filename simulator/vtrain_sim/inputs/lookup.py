"""What a name on the command line means: a preset, or a file of the user's."""

from __future__ import annotations

from pathlib import Path

from vtrain_sim.errors import SpecError, nearest
from vtrain_sim.file_table import FileTable
from vtrain_sim.inputs import presets
from vtrain_sim.specs.cluster import ClusterSpec
from vtrain_sim.specs.model import ModelSpec


def find_cluster(name: str) -> tuple[ClusterSpec, FileTable]:
    """A cluster preset, or the one that a TOML or YAML file describes, with its device's coefficients."""
    if name.endswith((".toml", ".yaml", ".yml")):
        from vtrain_sim.inputs.cluster_file import read_cluster

        return read_cluster(Path(name))
    if _is_path(name):
        raise SpecError(f"{_no_such(name)}: a cluster is a preset's name, or a .toml, .yaml or .yml file")
    return presets.cluster(name), presets.cluster_surfaces(name)


def find_model(name: str) -> ModelSpec:
    """A model preset, or that of a Hugging Face ``config.json`` (or the folder that holds one)."""
    if is_config(name):
        from vtrain_sim.inputs.huggingface import read_config

        return read_config(Path(name))
    if _is_path(name):
        close = nearest(name.rpartition("/")[2].lower(), presets.names("models"))
        raise SpecError(f"{_no_such(name)}{close}: a model is a preset's name, or a config.json or the folder of one")
    return presets.model(name)


def left_out_of_model(name: str) -> tuple[str, ...]:
    """Sentences about what a model has that is left out of its projection. name: "" where another source has it."""
    if not is_config(name):
        return presets.approximations(name) if name else ()
    from vtrain_sim.inputs.huggingface import left_out

    return left_out(Path(name))


def is_config(name: str) -> bool:
    """Whether a name is that of a Hugging Face ``config.json``, or of the folder that holds one.

    A folder's name without a slash is a preset's first.
    """
    if name.endswith(".json"):
        return True
    if "/" in name:
        return Path(name).is_dir()
    return Path(name, "config.json").is_file() and name not in presets.names("models")


def _is_path(name: str) -> bool:
    """Whether a name can only be a file's: no preset has a slash in its name, or begins with a dot."""
    return "/" in name or name.startswith((".", "~"))


def _no_such(name: str) -> str:
    return f"{name} is a file of another kind" if Path(name).exists() else f"there is no file or folder {name}"
