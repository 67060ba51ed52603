"""Tokens that cross each level once for each domain that has one of their experts."""

from __future__ import annotations

from pathlib import Path

import pytest

from vtrain_sim.calibration.exchanges import MeasuredExchange, fit_exchanges, read_exchanges
from vtrain_sim.costs import CollectiveCosts
from vtrain_sim.costs.paths import Path as NetworkPath
from vtrain_sim.costs.token_exchange import exchange_s
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets
from vtrain_sim.specs import ParallelSpec
from vtrain_sim.specs.groups import Groups
from vtrain_sim.specs.token_routing import HYBRIDEP, Delivery, domains_reached

H100 = presets.cluster("dgx-h100")


def test_domains_reached_counts_each_domain_once() -> None:
    """One expert has one domain; of 2 domains, two experts miss one half of the time."""
    assert domains_reached(8, 1) == pytest.approx(1.0)
    assert domains_reached(2, 2) == pytest.approx(1.5)
    assert domains_reached(4, 1000) == pytest.approx(4.0)


def test_limited_routing_reaches_fewer_domains() -> None:
    """Of 8 nodes a token's experts are on 4 at most; of one node they are always on that."""
    assert domains_reached(8, 1000, 0.5) == pytest.approx(4.0)
    assert domains_reached(1, 8, 0.5) == pytest.approx(1.0)
    group = Groups(ParallelSpec(dp=64, ep=64)).ep
    costs = CollectiveCosts(H100)
    limited, free = (costs.exchange(group, 1 << 26, Delivery(8, share)).seconds for share in (0.5, 1.0))
    assert 0.6 < limited / free < 0.8


def test_one_copy_per_node_crosses_the_network() -> None:
    """Of 8 experts on 2 nodes an all-to-all sends 4 copies to the other node, an exchange one."""
    group = Groups(ParallelSpec(dp=16, ep=16)).ep
    costs = CollectiveCosts(H100)
    one_copy = 4096 * 2048 * 2
    once = costs.exchange(group, one_copy, Delivery(8)).seconds
    all_copies = costs.estimate("all_to_all", group, 8 * one_copy).seconds
    assert 3 < all_copies / once < 5


def test_two_nodes_cost_little_more_than_one() -> None:
    """With one copy per node EP16 over two nodes stays within a third of EP8 in one, where an all-to-all takes 4 times."""
    costs = CollectiveCosts(H100)
    small, large = (Groups(ParallelSpec(dp=16, ep=ep)).ep for ep in (8, 16))
    one_copy = 4096 * 2048 * 2
    assert (
        costs.exchange(large, one_copy, Delivery(8)).seconds
        < 1.7 * costs.exchange(small, one_copy, Delivery(8)).seconds
    )
    assert costs.estimate("all_to_all", large, 8 * one_copy).seconds > 3 * (
        costs.estimate("all_to_all", small, 8 * one_copy).seconds
    )


def test_hybridep_has_a_rate_of_its_own() -> None:
    """Published for 8 B200, 4096 tokens of 7168 channels to 8 of 64 experts (DeepEP's documentation of HybridEP, kernels
    alone): 735 GB/s dispatched and 674 combined, counting what stays on the rank."""
    group = Groups(ParallelSpec(dp=8, ep=8)).ep
    one_copy = 4096 * 7168 * 2
    received = one_copy * domains_reached(8, 8)
    b200 = CollectiveCosts(presets.cluster("dgx-b200"))
    deep, hybrid = (b200.exchange(group, one_copy, Delivery(8, library=name)).seconds for name in ("deepep", HYBRIDEP))
    assert hybrid < deep
    assert received / 735e9 < hybrid < 1.25 * received / 674e9
    without = CollectiveCosts(H100)
    assert without.exchange(group, one_copy, Delivery(8, library=HYBRIDEP)) == without.exchange(
        group, one_copy, Delivery(8)
    )


def test_the_fit_finds_the_rates_that_made_the_times() -> None:
    """Times of the model itself give back its rates, inside a node and between nodes."""
    rows = []
    for nodes in (1, 2, 4):
        for tokens in (1024, 8192):
            path = NetworkPath.over_nodes(8 * nodes, nodes, 1, H100.levels)
            nbytes = tokens * 14336
            rows.append(MeasuredExchange(nodes, 8 * nodes, nbytes, 8, exchange_s(nbytes, path, Delivery(8))))
    rates, report = fit_exchanges(H100, rows)
    assert rates["intra_node"] == pytest.approx(H100.intra_node.exchange_bandwidth, rel=0.02)
    assert rates["inter_node"] == pytest.approx(H100.inter_node.exchange_bandwidth, rel=0.02)
    assert len(report) == 2


def test_tables_of_exchanges_are_read_by_their_columns(tmp_path: Path) -> None:
    """DeepEP's table counts nodes, that of NVLink ranks; a table without large exchanges is refused."""
    deepep = tmp_path / "deepep.csv"
    deepep.write_text(
        "system,node_num,hidden_size,num_token,num_topk,num_experts,combine_transmit_us\n"
        "h100,2,7168,4096,8,256,1800\nh100,2,7168,4096,8,256,1777\nh100,8,7168,4096,8,256,4461\nb200,1,7168,4096,8,256,9\n"
    )
    assert read_exchanges(deepep, "h100") == [MeasuredExchange(2, 16, 4096 * 7168 * 2, 8, 1777e-6)]
    nvlink = tmp_path / "nvlink.csv"
    nvlink.write_text(
        "op_name,dtype,num_tokens,hidden_size,topk,moe_ep_size,duration_us\n"
        "alltoall_combine,bfloat16,2048,7168,8,64,500\nalltoall_dispatch,bfloat16,2048,7168,8,64,400\n"
    )
    assert read_exchanges(nvlink) == [MeasuredExchange(1, 64, 2048 * 7168 * 2, 8, 500e-6, once=False)]
    with pytest.raises(UserError, match="no exchange of 1024 tokens"):
        read_exchanges(deepep, "gb200")
