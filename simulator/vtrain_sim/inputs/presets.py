"""Models, devices and clusters that ship with vtrain, by name."""

from __future__ import annotations

import sys
from functools import cache
from importlib.resources import files

from vtrain_sim.errors import UserError, nearest
from vtrain_sim.file_table import FileTable
from vtrain_sim.inputs.cluster_table import cluster_from_table
from vtrain_sim.inputs.device_table import device_from_table
from vtrain_sim.specs.cluster import ClusterSpec, DeviceSpec
from vtrain_sim.specs.model import ModelSpec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# What presets' files, and the reader of Hugging Face's, say of a model with such layers.
PREDICTION = "layers of multi-token prediction, which are left out unless --mtp-num-layers adds them"


def names(kind: str) -> list[str]:
    """Names of the presets of a kind: models, devices or clusters."""
    folder = files("vtrain_data") / kind
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


@cache
def _load(kind: str, name: str) -> FileTable:
    known = names(kind)
    if name not in known:
        raise UserError(f"there is no {kind.rstrip('s')} {name!r}{nearest(name, known)}; known are {', '.join(known)}")
    text = (files("vtrain_data") / kind / f"{name}.toml").read_text(encoding="utf-8")
    values: FileTable = tomllib.loads(text)
    return values


def priors(name: str) -> FileTable:
    """What is known about a GPU's coefficients before training steps are looked at."""
    return _load("priors", name)


def source(kind: str, name: str) -> str:
    """Where the figures of a preset are from."""
    table = _load(kind, name)
    return str(table["device"]["source"] if kind == "devices" else table["source"])


def model(name: str) -> ModelSpec:
    """A model preset; raises `UserError` with the nearest name."""
    values = {k: v for k, v in _load("models", name).items() if k not in ("source", "approximated")}
    return ModelSpec(name=name, **values)


def approximations(name: str) -> tuple[str, ...]:
    """A sentence for each thing that a model has and its preset has not; raises `UserError` as `model` does."""
    return tuple(f"{name} has {what}" for what in _load("models", name).get("approximated", ()))


def device(name: str) -> DeviceSpec:
    """A device preset."""
    return device_from_table(_load("devices", name)["device"])


def device_surfaces(name: str) -> FileTable:
    """Calibrated coefficients of a device, as `costs.surfaces` reads them; some are another device's."""
    table = _load("devices", name)
    surfaces: FileTable = table["surfaces"] if "surfaces" in table else device_surfaces(table["surfaces_of"])
    return surfaces


def cluster_surfaces(name: str) -> FileTable:
    """Calibrated coefficients of a cluster's device."""
    return device_surfaces(_load("clusters", name)["device"])


def cluster(name: str) -> ClusterSpec:
    """A cluster preset, with its device."""
    values = {k: v for k, v in _load("clusters", name).items() if k != "source"}
    return cluster_from_table(name, device(values.pop("device")), values)
