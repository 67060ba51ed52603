"""Models, devices and clusters that ship with vtrain, by name."""

from __future__ import annotations

import sys
from functools import cache
from importlib.resources import files
from typing import Any

from vtrain_sim.errors import UserError, nearest
from vtrain_sim.specs.cluster import ClusterSpec, DeviceSpec, NetworkSpec
from vtrain_sim.specs.model import ModelSpec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def names(kind: str) -> list[str]:
    """Names of the presets of a kind: models, devices or clusters."""
    folder = files("vtrain_data") / kind
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


@cache
def _load(kind: str, name: str) -> dict[str, Any]:
    known = names(kind)
    if name not in known:
        raise UserError(f"there is no {kind.rstrip('s')} {name!r}{nearest(name, known)}; known are {', '.join(known)}")
    text = (files("vtrain_data") / kind / f"{name}.toml").read_text(encoding="utf-8")
    values: dict[str, Any] = tomllib.loads(text)
    return values


def priors(name: str) -> dict[str, Any]:
    """What is known about a GPU's coefficients before training steps are looked at."""
    return _load("priors", name)


def model(name: str) -> ModelSpec:
    """A model preset; raises `UserError` with the nearest name."""
    values = {k: v for k, v in _load("models", name).items() if k != "source"}
    return ModelSpec(name=name, **values)


def device(name: str) -> DeviceSpec:
    """A device preset."""
    return DeviceSpec.from_table(_load("devices", name)["device"])


def device_surfaces(name: str) -> dict[str, Any]:
    """Calibrated coefficients of a device, as `costs.surfaces` reads them; some are another device's."""
    held = _load("devices", name)
    surfaces: dict[str, Any] = held["surfaces"] if "surfaces" in held else device_surfaces(held["surfaces_of"])
    return surfaces


def cluster_surfaces(name: str) -> dict[str, Any]:
    """Calibrated coefficients of a cluster's device."""
    return device_surfaces(_load("clusters", name)["device"])


def cluster(name: str) -> ClusterSpec:
    """A cluster preset, with its device."""
    values = {k: v for k, v in _load("clusters", name).items() if k != "source"}
    return ClusterSpec(
        name=name,
        device=device(values.pop("device")),
        intra_node=NetworkSpec("intra-node", **values.pop("intra_node")),
        inter_node=NetworkSpec("inter-node", **values.pop("inter_node")),
        **values,
    )
