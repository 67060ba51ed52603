"""The table of a cluster, in presets and in users' files: scalars, and the levels of its network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from vtrain_sim.file_table import FileTable
from vtrain_sim.inputs.device_table import check_table
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.specs.cluster import ClusterSpec, DeviceSpec, NetworkLevel

# What levels are called, from the inside out, where the file does not say.
_LEVEL_NAMES = ("intra-node", "inter-node")
_COEFFICIENTS = [f.name for f in fields(NetworkLevel)]
# Spellings of a network of two levels, which [[levels]] replaces.
_TWO_LEVELS = ("gpus_per_node", "intra_node", "inter_node")


def cluster_from_table(name: str, device: DeviceSpec, table: FileTable) -> ClusterSpec:
    """A cluster, from a table with either gpus_per_node, intra_node and inter_node, or [[levels]] from the inside out.

    Raises `SpecError` where a level is not one.
    """
    values = dict(table)
    if "levels" in values:
        doubled = [spelling for spelling in _TWO_LEVELS if spelling in values]
        if doubled:
            raise SpecError(f"cluster {name} has levels and {', '.join(doubled)}: it takes one or the other")
        if not isinstance(values["levels"], list):
            raise SpecError(f"levels is {values['levels']!r}: it takes a list of tables, [[levels]]")
        levels = [_level(_name_of(position), each) for position, each in enumerate(values.pop("levels"))]
        return replace(ClusterSpec.of_levels(name, device, levels), **values)
    intra = _level(_LEVEL_NAMES[0], values.pop("intra_node"))
    inter = _level(_LEVEL_NAMES[1], values.pop("inter_node"))
    return ClusterSpec(name=name, device=device, intra_node=intra, inter_node=inter, **values)


def _name_of(position: int) -> str:
    return _LEVEL_NAMES[position] if position < len(_LEVEL_NAMES) else f"level {position + 1}"


def _level(name: str, table: object) -> NetworkLevel:
    if isinstance(table, NetworkLevel):
        return table
    if not isinstance(table, Mapping):
        raise SpecError(f"network {name} is {table!r}: it takes a table of coefficients")
    values = {"name": name, **check_table(f"network {name}", table, _COEFFICIENTS, ("bandwidth", "latency_s"))}
    for entry in ("name", "source"):
        if not isinstance(values.get(entry, ""), str):
            raise SpecError(f"{entry} of network {name} is {values[entry]!r}: it takes a text")
    return NetworkLevel(**values)
