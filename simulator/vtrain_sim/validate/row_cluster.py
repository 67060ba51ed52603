"""The cluster that a row of a validation table was measured on, from its GPU and its network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vtrain_sim.costs.surfaces import Surfaces
from vtrain_sim.errors import UserError, nearest
from vtrain_sim.inputs import presets
from vtrain_sim.specs import ClusterSpec

# Cluster presets by GPU and inter-node bandwidth of a node, Gb/s; "" where a source does not say.
CLUSTERS = {
    ("A100-SXM4-80GB", "1600"): "dgx-a100-80gb",
    ("A100-SXM4-80GB", "800"): "a100-80gb-4x200",
    ("A100-SXM4-80GB", "400"): "a100-80gb-4x100",
    ("A100-SXM4-80GB", ""): "a100-80gb-4x200",
    ("H100-SXM5-80GB", "3200"): "dgx-h100",
    ("H100-SXM5-80GB", ""): "dgx-h100",
    ("H200-SXM-141GB", "3200"): "dgx-h200",
    ("B200-SXM-180GB", "3200"): "dgx-b200",
    ("B300-SXM-270GB", "6400"): "dgx-b300",
    ("GB200-186GB", "1600"): "gb200-nvl72",
    ("GB300-279GB", "3200"): "gb300-nvl72",
}
_WHERE = ("gpu", "gpus_per_node", "inter_node_gbps_per_node")


def where(row: Mapping[str, str]) -> tuple[str, ...]:
    """What a row says about its machine: rows that say the same share a cluster."""
    return tuple(row.get(name) or "" for name in _WHERE)


def cluster_of(row: Mapping[str, str]) -> tuple[ClusterSpec, Surfaces]:
    """The cluster of a row: the preset with its GPU and network. Raises `UserError`."""
    name = cluster_name(row)
    cluster = presets.cluster(name)
    # Where NVLink joins several nodes, the domain counts and not the node.
    if not cluster.intra_node.segment:
        cluster = replace(cluster, gpus_per_node=_gpus_per_node(row))
    return cluster, Surfaces.from_dict(presets.cluster_surfaces(name))


def _gpus_per_node(row: Mapping[str, str]) -> int:
    text = (row.get("gpus_per_node") or "8").strip().removesuffix(".0")
    if not text.isdecimal():
        raise UserError(f"gpus_per_node is {text!r}, not a whole number")
    return int(text)


def cluster_name(row: Mapping[str, str]) -> str:
    """The cluster preset with a row's GPU and inter-node bandwidth per node. Raises `UserError`."""
    gpu, node_gbps = row.get("gpu") or "", row.get("inter_node_gbps_per_node") or ""
    if not has_cluster(row):
        raise UserError(
            f"no calibrated cluster has {gpu or 'an unnamed GPU'} with {node_gbps or 'unknown'} Gb/s per node"
            f"{_meant(gpu)}"
        )
    return CLUSTERS[gpu, node_gbps]


def _meant(gpu: str) -> str:
    """The names of GPUs of which a table has a part alone."""
    names = dict.fromkeys(name for name, _ in CLUSTERS)
    if not gpu or gpu in names:
        return ""
    longer = [name for name in names if gpu.lower() in name.lower()]
    return f" (did you mean {' or '.join(map(repr, longer))}?)" if longer else nearest(gpu, names)


def has_cluster(row: Mapping[str, str]) -> bool:
    """Whether a preset has a row's GPU and inter-node bandwidth."""
    return (row.get("gpu") or "", row.get("inter_node_gbps_per_node") or "") in CLUSTERS


def known_clusters() -> tuple[str, ...]:
    """GPUs and bandwidths that have a preset, in words."""
    return tuple(f"{gpu} with {gbps or 'unknown'} Gb/s per node" for gpu, gbps in CLUSTERS)
