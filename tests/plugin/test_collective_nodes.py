"""``vtrain-profile collectives`` over several nodes: which groups are measured, and what the table says of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vtrain_plugin.bench.node_layout import NodeLayout
from vtrain_sim.catalog import Catalog
from vtrain_sim.costs.measured_collectives import load_collectives


@pytest.mark.parametrize(
    ("places", "groups"),
    [
        ("aaaa", [[0, 1], [0, 1, 2, 3]]),
        ("aaaaaa", [[0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]),
        # Two ranks inside a node, two in two nodes, and all four.
        ("aabb", [[0, 1], [0, 2], [0, 1, 2, 3]]),
        # Ranks need not be in the order of the nodes.
        ("abab", [[0, 2], [0, 1], [0, 1, 2, 3]]),
        ("aab", [[0, 1], [0, 2], [0, 1, 2]]),
        ("abc", [[0, 1], [0, 1, 2]]),
        ("a", []),
    ],
)
def test_groups_tell_nodes_apart(places: str, groups: list[list[int]]) -> None:
    assert NodeLayout.of_places(places).groups() == groups


def test_nodes_of_a_group() -> None:
    layout = NodeLayout.of_places("aaaabbbb")
    assert [(layout.nodes(g), layout.ranks_per_node(g)) for g in ([0, 1], [3, 4], [0, 1, 2, 4])] == [
        (1, 2),
        (2, 1),
        (2, 3),
    ]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


@pytest.mark.slow
def test_two_nodes_that_share_a_host(tmp_path: Path) -> None:
    """Two launchers of two processes each: torchrun counts them as nodes."""
    common = ("--nnodes", "2", "--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", str(free_port()))
    work = ("-m", "vtrain_plugin.cli", "collectives", "--out", str(tmp_path), "--repeats", "3", "--no-pin")
    sizes = ("--sizes", "4096", "--ops", "all_reduce,p2p")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    launched = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *common, "--node-rank", node, *work, *sizes],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in ("0", "1")
    ]
    printed = [process.communicate(timeout=280) for process in launched]
    assert [process.returncode for process in launched] == [0, 0], printed
    assert sum(out.count("wrote ") for out, _ in printed) == 1
    catalog = Catalog(tmp_path / "c.duckdb")
    assert not catalog.add([str(tmp_path)]).problems
    # No run id was given: all ranks agreed on one.
    (run,) = catalog.runs()
    assert run["world_size"] == 4
    assert catalog.show(run["run_id"])["run"]["devices_per_host"] == 2
    found = catalog.sql(
        "SELECT DISTINCT op, group_ranks, nodes, ranks_per_node FROM collective_transfers ORDER BY ALL"
    ).to_pylist()
    assert [tuple(row.values()) for row in found] == [
        ("all_reduce", [0, 1], 1, 2),
        ("all_reduce", [0, 1, 2, 3], 2, 2),
        ("all_reduce", [0, 2], 2, 1),
        ("p2p", [0, 1], 1, 2),
        ("p2p", [0, 2], 2, 1),
        ("p2p", [0, 3], 2, 1),
    ]
    with catalog.reading() as connection:
        inside = load_collectives(connection, [run["run_id"]])
    assert set(inside.points) == {("all_reduce", 2), ("p2p", 2)}
