"""Paths over NVLink domains of any size, of which a job takes a segment."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vtrain_sim.costs import CollectiveCosts
from vtrain_sim.costs.paths import Path
from vtrain_sim.inputs import presets
from vtrain_sim.specs import Group, NetworkLevel, ParallelSpec, SpecError
from vtrain_sim.specs.groups import Groups

NVL72 = presets.cluster("gb200-nvl72")


def _path(levels: tuple[NetworkLevel, ...], group: Group) -> Path:
    return Path.of_group(group, levels)


@pytest.mark.parametrize("dp", [64, 128, 256])
def test_an_expert_group_of_64_stays_in_one_domain_of_72(dp: int) -> None:
    """Jobs of several domains take 64 GPUs of each, so that groups of 64 ranks cross no NIC."""
    groups = Groups(ParallelSpec(dp=dp, ep=64))
    path = _path(NVL72.levels, groups.ep)
    assert path.size == 64
    assert path.crossings == ()


def test_a_job_of_one_domain_takes_all_of_it() -> None:
    """72 ranks sit in one domain, whose segment counts only beside other domains."""
    assert _path(NVL72.levels, Groups(ParallelSpec(dp=72)).dp).crossings == ()
    crossing = _path(NVL72.levels, Groups(ParallelSpec(dp=128)).dp).crossings
    assert [(c.domains, c.ranks) for c in crossing] == [(2, 64)]


def test_without_a_segment_groups_of_64_lie_across_domains_of_72() -> None:
    """Ranks 64 to 127 begin in the first domain and end in the second."""
    whole = replace(NVL72, intra_node=replace(NVL72.intra_node, segment=0))
    path = _path(whole.levels, Groups(ParallelSpec(dp=128, ep=64)).ep)
    assert path.crossings[0].domains == 2


def test_expert_groups_cost_less_inside_a_domain_than_over_nodes_of_8() -> None:
    """The same exchange of 64 ranks, in a domain of 72 and over 8 nodes."""
    group = Groups(ParallelSpec(dp=64, ep=64)).ep
    inside = CollectiveCosts(NVL72).estimate("all_to_all", group, 1 << 28).seconds
    over_nodes = CollectiveCosts(presets.cluster("dgx-b200")).estimate("all_to_all", group, 1 << 28).seconds
    assert over_nodes > 5 * inside


def test_trays_are_no_level_of_their_own() -> None:
    """Groups of 4, a tray, and groups over trays take the same links."""
    inside = _path(NVL72.levels, Groups(ParallelSpec(dp=64, tp=4)).tp)
    over_trays = _path(NVL72.levels, Groups(ParallelSpec(dp=16, tp=4)).dp)
    assert inside.crossings == over_trays.crossings == ()


def test_a_segment_is_no_larger_than_its_domain() -> None:
    """A segment of 80 of 72 GPUs is refused."""
    with pytest.raises(SpecError, match="segment of 80"):
        replace(NVL72, intra_node=replace(NVL72.intra_node, segment=80))
    with pytest.raises(SpecError, match="takes no segment"):
        replace(NVL72, inter_node=replace(NVL72.inter_node, segment=8))


@pytest.mark.parametrize("name", ["dgx-h200", "dgx-b200", "dgx-b300", "gb200-nvl72", "gb300-nvl72"])
def test_blackwell_and_hopper_presets_load(name: str) -> None:
    """Each cluster has a device with a surface for every product that its peaks list."""
    device = presets.cluster(name).device
    surfaces = presets.cluster_surfaces(name)["gemm"]
    narrow = set(device.peak_flops) & {"float8", "float8_blockwise", "mxfp8", "nvfp4"}
    assert narrow <= set(surfaces)
