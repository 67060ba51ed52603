"""What a name on the command line means: a preset, or a file of the user's."""

from __future__ import annotations

from pathlib import Path

from vtrain_sim.file_table import FileTable
from vtrain_sim.inputs import presets
from vtrain_sim.specs.cluster import ClusterSpec
from vtrain_sim.specs.model import ModelSpec


def find_cluster(name: str) -> tuple[ClusterSpec, FileTable]:
    """A cluster preset, or the one that a TOML or YAML file describes, with its device's coefficients."""
    if name.endswith((".toml", ".yaml", ".yml")):
        from vtrain_sim.inputs.cluster_file import read_cluster

        return read_cluster(Path(name))
    return presets.cluster(name), presets.cluster_surfaces(name)


def find_model(name: str) -> ModelSpec:
    """A model preset, or that of a Hugging Face ``config.json`` (or the folder that holds one)."""
    path = Path(name)
    if name.endswith(".json") or ("/" in name and path.is_dir()):
        from vtrain_sim.inputs.huggingface import read_config

        return read_config(path)
    return presets.model(name)
