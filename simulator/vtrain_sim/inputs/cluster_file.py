"""Clusters that users describe: a TOML or YAML file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from vtrain_sim.inputs import presets, spec_file
from vtrain_sim.specs.cluster import ClusterSpec, DeviceSpec, NetworkSpec
from vtrain_sim.specs.validation import SpecError, finite

# Parts of the line rate that collectives and single transfers reach where nothing was measured: what the
# bundled A100 and H100 clusters reach of theirs.
_RING_SHARE, _NODE_SHARE, _P2P_SHARE = 0.87, 0.62, 0.7


def read_cluster(path: Path) -> tuple[ClusterSpec, dict[str, Any]]:
    """A cluster and the cost surfaces of its device.

    device: name of a device preset, or a table as in data/vtrain_data/devices. Links: the tables
    intra_node and inter_node as in data/vtrain_data/clusters, or nvlink_gb_per_s (one GPU, one
    direction), nics_per_node, nic_gbit_per_s and oversubscription. Raises `SpecError`.
    """
    table = spec_file.load(path)
    known = {f.name for f in fields(ClusterSpec)} | {
        "nvlink_gb_per_s",
        "nics_per_node",
        "nic_gbit_per_s",
        "oversubscription",
        "surfaces",
        "source",
    }
    for name in table:
        if name not in known:
            raise SpecError(f"{path}: unknown entry {name!r}: known are {', '.join(sorted(known))}")
    for name in ("device", "gpus_per_node"):
        if name not in table:
            raise SpecError(f"{path} does not say {name}")
    try:
        device, surfaces = _device(table)
        intra = _network("intra-node", table.get("intra_node"), lambda: _nvlink(table, path))
        inter = _network("inter-node", table.get("inter_node"), lambda: _nics(table, path))
        rest = {k: v for k, v in table.items() if k in {f.name for f in fields(ClusterSpec)}}
        for name in ("device", "intra_node", "inter_node"):
            rest.pop(name, None)
        rest.setdefault("name", path.stem)
        return ClusterSpec(device=device, intra_node=intra, inter_node=inter, **rest), surfaces
    except (TypeError, AttributeError, KeyError) as error:
        raise SpecError(f"{path} is not a cluster: {error}") from None


def _device(table: dict[str, Any]) -> tuple[DeviceSpec, dict[str, Any]]:
    held = table["device"]
    if isinstance(held, str):
        return presets.device(held), presets.device_surfaces(held)
    return DeviceSpec.from_table(held), table.get("surfaces", {})


def _network(name: str, held: Any, otherwise: Any) -> NetworkSpec:
    return NetworkSpec(name, **held) if held is not None else otherwise()


def _rate(table: dict[str, Any], name: str, path: Path) -> float:
    if name not in table:
        raise SpecError(f"{path} does not say {name}")
    finite(name, table[name], 1e-3)
    return float(table[name])


def _nvlink(table: dict[str, Any], path: Path) -> NetworkSpec:
    rate = _rate(table, "nvlink_gb_per_s", path) * 1e9
    return NetworkSpec(
        "intra-node",
        rate * _RING_SHARE,
        35e-6,
        ramp_s=40e-6,
        ramp_bytes=4e6,
        copy_bandwidth=2.3 * rate,
        p2p_bandwidth=rate * _P2P_SHARE,
        sigma=0.25,
    )


def _nics(table: dict[str, Any], path: Path) -> NetworkSpec:
    nics = _rate(table, "nics_per_node", path)
    line = nics * _rate(table, "nic_gbit_per_s", path) / 8 * 1e9
    return NetworkSpec(
        "inter-node",
        line * _NODE_SHARE / nics,
        60e-6,
        7e-6,
        line * _P2P_SHARE / nics,
        line * _NODE_SHARE,
        line * _P2P_SHARE,
        float(table.get("oversubscription", 1.0)),
        sigma=0.25,
    )
