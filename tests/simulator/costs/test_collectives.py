"""Collectives over the levels of a network."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtrain_sim.costs import CollectiveCosts, MeasuredCollectives
from vtrain_sim.costs import paths as costs_paths
from vtrain_sim.costs.algorithms import Algorithm, Ring, Tree, register, registry
from vtrain_sim.costs.estimate import MEASURED, MODELLED
from vtrain_sim.errors import UserError
from vtrain_sim.specs import ClusterSpec, DeviceSpec, Groups, NetworkLevel, ParallelSpec, SpecError

DEVICE = DeviceSpec("d", {"bfloat16": 3e14}, 2e12, 1 << 36)
INTRA = NetworkLevel(
    "intra-node",
    2.5e11,
    3.5e-5,
    1e-6,
    2.2e11,
    ramp_s=4e-5,
    ramp_bytes=4e6,
    copy_bandwidth=7e11,
    sigma=0.1,
)
INTER = NetworkLevel(
    "inter-node",
    2.2e10,
    6e-5,
    7e-6,
    2.1e10,
    node_bandwidth=1.2e11,
    p2p_node_bandwidth=1.4e11,
    ramp_s=1e-5,
    ramp_bytes=1e6,
    copy_bandwidth=6e11,
    sigma=0.2,
)
CLUSTER = ClusterSpec("c", DEVICE, 8, INTRA, INTER)
SPINE = NetworkLevel("spine", 2.2e10, 9e-5, 1e-5, 2.1e10, node_bandwidth=1e11, p2p_node_bandwidth=1.1e11, sigma=0.3)
# Nodes of 8 GPUs, leaf switches over 4 of them, and a spine that all ranks under one leaf share.
THREE_LEVELS = replace(CLUSTER, inter_node=replace(INTER, gpus=32), outer=(SPINE,))
OPS = ("all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast", "p2p")


def recorded() -> Iterator[dict[str, str]]:
    """Times of the formula that had two levels and one function, on CLUSTER."""
    with (Path(__file__).parent / "collective_times.csv").open(newline="") as stream:
        yield from csv.DictReader(stream)


def test_two_levels_take_the_recorded_times() -> None:
    rows = list(recorded())
    assert len(rows) > 200
    for row in rows:
        inter = replace(INTER, oversubscription=float(row["oversubscription"]))
        costs = CollectiveCosts(replace(CLUSTER, inter_node=inter))
        size, nodes, sharers, nbytes = (int(row[name]) for name in ("size", "nodes", "sharers", "bytes"))
        estimate = costs.over_nodes(row["op"], size, nbytes, nodes, sharers)
        assert estimate.seconds == pytest.approx(float(row["seconds"]), rel=1e-12), row
        assert estimate.sigma == (0.1 if nodes == 1 else 0.2)
        assert estimate.provenance == MODELLED


@pytest.mark.parametrize(
    ("role", "nodes", "sharers"), [("tp", 1, 1), ("dp", 8, 4), ("ep", 2, 1), ("expert_dp", 4, 8), ("embedding", 2, 8)]
)
def test_a_group_takes_the_time_of_the_nodes_that_it_spans(role: str, nodes: int, sharers: int) -> None:
    groups = Groups(ParallelSpec(tp=4, dp=16, pp=2, ep=16, expert_tp=1))
    group = getattr(groups, role)
    costs = CollectiveCosts(CLUSTER)
    expected = costs.over_nodes("all_reduce", group.size, 1 << 26, nodes, sharers)
    assert costs.estimate("all_reduce", group, 1 << 26) == expected


def test_transfers_inside_a_node_are_faster_than_those_between_nodes() -> None:
    costs, groups = CollectiveCosts(CLUSTER), Groups(ParallelSpec(tp=2, pp=8))
    times = [costs.transfer(groups.boundary(stage, stage + 1), 1 << 24).seconds for stage in range(7)]
    assert times[3] > 3 * times[0]
    assert times == [times[0]] * 3 + [times[3]] + [times[0]] * 3


def test_the_levels_crossed_decide() -> None:
    costs = CollectiveCosts(THREE_LEVELS)

    def path(**sizes: int) -> costs_paths.Path:
        return costs.path(Groups(ParallelSpec(**sizes)).dp)

    assert path(dp=8).crossings == ()
    (leaf,) = path(dp=32).crossings
    assert (leaf.domains, leaf.outer_domains, leaf.ranks, leaf.sharers, leaf.level.name) == (4, 1, 8, 1, "inter-node")
    leaf, spine = path(dp=128).crossings
    assert (leaf.domains, leaf.outer_domains, leaf.hops) == (16, 4, 12)
    assert (spine.domains, spine.outer_domains, spine.ranks, spine.hops) == (4, 1, 32, 3)
    assert path(dp=128).top.name == "spine"
    # Under one leaf the spine does not matter.
    small = Groups(ParallelSpec(dp=32)).dp
    for op in OPS:
        two = CollectiveCosts(CLUSTER).estimate(op, small, 1 << 26)
        assert costs.estimate(op, small, 1 << 26) == two, op


@pytest.mark.parametrize("op", OPS)
def test_a_thin_spine_slows_what_crosses_it(op: str) -> None:
    group = Groups(ParallelSpec(dp=128)).dp if op != "p2p" else Groups(ParallelSpec(dp=64, pp=2)).boundary(0, 1)
    wide, thin = (
        CollectiveCosts(replace(THREE_LEVELS, outer=(replace(SPINE, oversubscription=over),))) for over in (1.0, 8.0)
    )
    assert thin.estimate(op, group, 1 << 28).seconds > 2 * wide.estimate(op, group, 1 << 28).seconds
    assert wide.estimate(op, group, 1 << 28).sigma == 0.3


def test_a_large_nvlink_domain_is_one_node() -> None:
    rack = ClusterSpec.of_levels("rack", DEVICE, [replace(INTRA, gpus=72), INTER])
    group = Groups(ParallelSpec(tp=8, dp=9)).dp
    assert rack.gpus_per_node == 72
    assert CollectiveCosts(rack).path(group).crossings == ()
    assert (
        CollectiveCosts(rack).estimate("all_reduce", group, 1 << 28).seconds
        < CollectiveCosts(CLUSTER).estimate("all_reduce", group, 1 << 28).seconds / 2
    )


def test_levels_are_checked() -> None:
    with pytest.raises(SpecError, match="one domain"):
        replace(CLUSTER, outer=(SPINE,))
    with pytest.raises(SpecError, match="multiple of the 8"):
        replace(CLUSTER, inter_node=replace(INTER, gpus=12), outer=(SPINE,))
    with pytest.raises(SpecError, match="outermost"):
        replace(CLUSTER, inter_node=replace(INTER, gpus=64))
    with pytest.raises(SpecError, match="two or more"):
        ClusterSpec.of_levels("one", DEVICE, [replace(INTRA, gpus=8)])
    with pytest.raises(SpecError, match="GPUs per node"):
        ClusterSpec.of_levels("none", DEVICE, [INTRA, INTER])


@given(st.sampled_from(OPS), st.integers(1, 1 << 32), st.integers(1, 1 << 32), st.sampled_from([2, 8, 32, 128, 512]))
@settings(deadline=None)
def test_more_bytes_never_take_less_time(op: str, a: int, b: int, size: int) -> None:
    costs = CollectiveCosts(THREE_LEVELS)
    group = Groups(ParallelSpec(dp=size)).dp
    low, high = (costs.estimate(op, group, nbytes).seconds for nbytes in sorted((a, b)))
    assert 0 < low <= high * (1 + 1e-12)


def test_small_all_reduces_take_the_tree_and_large_ones_the_ring() -> None:
    costs = CollectiveCosts(CLUSTER)
    path = costs.path(Groups(ParallelSpec(dp=1024)).dp)
    ring, tree = Ring(), Tree()
    small, large = 1 << 20, 1 << 36
    assert costs.over_path("all_reduce", path, small).seconds == tree.seconds("all_reduce", small, path)
    assert costs.over_path("all_reduce", path, large).seconds == ring.seconds("all_reduce", large, path)
    assert tree.seconds("all_reduce", small, path) < ring.seconds("all_reduce", small, path)
    # Inside a node there is no tree, however slow the steps of the ring are.
    slow = CollectiveCosts(replace(CLUSTER, intra_node=replace(INTRA, hop_latency_s=1.0)))
    inside = slow.path(Groups(ParallelSpec(dp=8)).dp)
    assert not tree.applies(inside)
    assert slow.over_path("all_reduce", inside, 8).seconds == ring.seconds("all_reduce", 8, inside)
    assert tree.seconds("all_reduce", 8, inside) < 1 < 7 < ring.seconds("all_reduce", 8, inside)


def test_an_algorithm_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    class InNetwork(Algorithm):
        """Reduction in the switches: every byte up once."""

        name = "in-network"
        ops = frozenset(("all_reduce",))

        def applies(self, path: costs_paths.Path) -> bool:
            return bool(path.crossings)

        def seconds(self, op: str, nbytes: int, path: costs_paths.Path) -> float:
            return 1e-6 + nbytes / path.rate

    monkeypatch.setattr(registry, "_ALGORITHMS", dict(registry._ALGORITHMS))
    group = Groups(ParallelSpec(dp=64)).dp
    before = CollectiveCosts(CLUSTER).estimate("all_reduce", group, 1 << 28).seconds
    register(InNetwork())
    assert CollectiveCosts(CLUSTER).estimate("all_reduce", group, 1 << 28).seconds < 0.7 * before
    inside = Groups(ParallelSpec(dp=8)).dp
    assert math.isclose(
        CollectiveCosts(CLUSTER).estimate("all_reduce", inside, 8).seconds,
        Ring().seconds("all_reduce", 8, CollectiveCosts(CLUSTER).path(inside)),
    )


def test_an_unknown_collective_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'all_reduce'"):
        CollectiveCosts(CLUSTER).estimate("allreduce", Groups(ParallelSpec(dp=8)).dp, 8)


def test_measured_sizes_come_first_but_only_inside_a_node() -> None:
    measured = MeasuredCollectives()
    measured.add("all_reduce", 8, 1 << 20, 1.0, 0.01)
    costs = CollectiveCosts(CLUSTER, measured)
    inside, across = Groups(ParallelSpec(dp=8)).dp, Groups(ParallelSpec(tp=2, dp=8)).dp
    assert costs.estimate("all_reduce", inside, 1 << 20).provenance == MEASURED
    assert costs.estimate("all_reduce", inside, 1 << 20).seconds == 1.0
    assert costs.estimate("all_reduce", across, 1 << 20).provenance == MODELLED
