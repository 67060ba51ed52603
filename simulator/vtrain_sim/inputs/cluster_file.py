"""Clusters that users describe: a TOML or YAML file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from vtrain_sim.errors import UserError
from vtrain_sim.file_table import FileTable
from vtrain_sim.inputs import presets, spec_file
from vtrain_sim.inputs.cluster_table import cluster_from_table
from vtrain_sim.inputs.device_table import check_surfaces, device_from_table
from vtrain_sim.specs.checks import Range, SpecError
from vtrain_sim.specs.cluster import ClusterSpec, DeviceSpec, NetworkLevel

# Parts of the line rate that collectives and single transfers reach where nothing was measured: what the
# bundled A100 and H100 clusters reach of theirs.
_RING_SHARE, _NODE_SHARE, _P2P_SHARE = 0.87, 0.62, 0.7

# GB/s, Gbit/s and NICs.
_FIGURE = Range(1e-3, 1e9)
# What a file may give in place of coefficients of links.
_LINKS = ("nvlink_gb_per_s", "nics_per_node", "nic_gbit_per_s", "oversubscription")
# Fields of a cluster that other entries of a file describe.
_DERIVED = ("device", "outer")


def read_cluster(path: Path) -> tuple[ClusterSpec, FileTable]:
    """A cluster and the cost surfaces of its device.

    device: name of a device preset, or a table as in data/vtrain_data/devices. Links: the tables
    intra_node and inter_node as in data/vtrain_data/clusters, or nvlink_gb_per_s (one GPU, one
    direction), nics_per_node, nic_gbit_per_s and oversubscription; or [[levels]] from the inside out, each with
    the GPUs of one of its domains (`gpus`) but the last. Raises `SpecError`.
    """
    table = spec_file.load(path)
    try:
        _check_names(table)
        device, surfaces = _device(table)
        values = {k: v for k, v in table.items() if k in _cluster_fields() | {"levels"}}
        if "levels" not in table:
            values["intra_node"] = values.get("intra_node") or _nvlink(table)
            values["inter_node"] = values.get("inter_node") or _nics(table)
        name = values.pop("name", path.stem)
        if not isinstance(name, str) or not name:
            raise SpecError(f"name is {name!r}: it takes a text")
        return cluster_from_table(name, device, values), surfaces
    except UserError as error:
        raise SpecError(f"{path}: {error}") from None


def _cluster_fields() -> set[str]:
    return {f.name for f in fields(ClusterSpec)} - set(_DERIVED)


def _check_names(table: FileTable) -> None:
    known = _cluster_fields() | {*_LINKS, "device", "levels", "surfaces", "source"}
    for name in table:
        if name not in known:
            raise SpecError(f"unknown entry {name!r}: known are {', '.join(sorted(known))}")
    if "device" not in table:
        raise SpecError("it does not say device")
    if "levels" not in table and "gpus_per_node" not in table:
        raise SpecError("it does not say gpus_per_node")
    for described, links in (("levels", _LINKS), ("intra_node", _LINKS[:1]), ("inter_node", _LINKS[1:])):
        doubled = [name for name in links if name in table and described in table]
        if doubled:
            raise SpecError(f"it has {described} and {', '.join(doubled)}: it takes one or the other")


def _device(table: FileTable) -> tuple[DeviceSpec, FileTable]:
    """The device, and its surfaces: those of the file, else those of a preset."""
    device = table["device"]
    if isinstance(device, str):
        spec, surfaces = presets.device(device), presets.device_surfaces(device)
    else:
        spec, surfaces = device_from_table(device), {}
    return spec, check_surfaces(table.get("surfaces", surfaces))


def _rate(table: FileTable, name: str) -> float:
    if name not in table:
        raise SpecError(f"it does not say {name}")
    _FIGURE.check(name, table[name])
    return float(table[name])


def _nvlink(table: FileTable) -> NetworkLevel:
    rate = _rate(table, "nvlink_gb_per_s") * 1e9
    return NetworkLevel(
        "intra-node",
        rate * _RING_SHARE,
        35e-6,
        ramp_s=40e-6,
        ramp_bytes=4e6,
        copy_bandwidth=2.3 * rate,
        p2p_bandwidth=rate * _P2P_SHARE,
        sigma=0.25,
    )


def _nics(table: FileTable) -> NetworkLevel:
    nics = _rate(table, "nics_per_node")
    line = nics * _rate(table, "nic_gbit_per_s") / 8 * 1e9
    return NetworkLevel(
        "inter-node",
        line * _NODE_SHARE / nics,
        60e-6,
        7e-6,
        line * _P2P_SHARE / nics,
        line * _NODE_SHARE,
        line * _P2P_SHARE,
        table.get("oversubscription", 1.0),
        sigma=0.25,
    )
