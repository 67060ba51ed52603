"""Groups that no trace names: inferred where it is sure, from the calls of all ranks, and otherwise left unknown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.ingest.build import Kineto
from vtrain_sim.catalog import Catalog
from vtrain_sim.ingest.matching import Channel, matched

NCCL = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
P2P = "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)"
TRANSFER = 10.0
# Begin of each call of each rank, us. Ranks 0 and 1, and ranks 2 and 3, wait for each other; the pairs do not.
PAIRS = {
    0: [100, 300, 500, 700],
    1: [150, 230, 560, 640],
    2: [120, 330, 530, 660],
    3: [190, 280, 480, 730],
}
# All four wait for one of them.
ALL = {0: [100, 300, 500, 700], 1: [150, 310, 505, 705], 2: [110, 360, 509, 703], 3: [105, 305, 590, 780]}


def traces(
    folder: Path,
    begins: dict[int, list[int]],
    groups: list[list[int]],
    world: int = 0,
    change: Callable[[int, Kineto], None] = lambda rank, trace: None,
) -> Catalog:
    """A trace of each rank, whose calls end when the last of the group has begun and the transfer is over."""
    (folder / "job").mkdir()
    for group in groups:
        ends = [max(begins[rank][call] for rank in group) + TRANSFER for call in range(4)]
        for rank in group:
            trace = Kineto(rank, world or len(begins))
            trace.range("ProfilerStep#7", 0, 1000)
            for number, (begin, end) in enumerate(zip(begins[rank], ends, strict=True)):
                trace.op("record_param_comms", begin - 20, 10, **said(1024 << number % 2))
                trace.kernel(NCCL, begin - 15, begin, end - begin + 0.1 * rank, stream=20)
            change(rank, trace)
            trace.write(folder / "job" / f"rank{rank}.json")
    catalog = Catalog(folder / "c.duckdb")
    catalog.add([str(folder / "job")])
    return catalog


def said(elements: int) -> dict[str, object]:
    """What a profiler says of a call, without its group."""
    return {"Collective name": "allreduce", "In msg nelems": elements, "Out msg nelems": elements, "dtype": "BFloat16"}


def groups_of(catalog: Catalog) -> dict[int, set[tuple[Any, ...]]]:
    """By rank: groups of its all-reduces, and where they are from."""
    rows = catalog.sql("SELECT rank, group_ranks, group_source FROM collectives WHERE op = 'all_reduce'").to_pylist()
    found: dict[int, set[tuple[Any, ...]]] = {}
    for row in rows:
        ranks = tuple(row["group_ranks"]) if row["group_ranks"] is not None else None
        found.setdefault(row["rank"], set()).add((ranks, row["group_source"]))
    return found


UNKNOWN = {(None, None)}


def test_ranks_that_wait_for_each_other_are_a_group(tmp_path: Path) -> None:
    catalog = traces(tmp_path, ALL, [[0, 1, 2, 3]])
    assert groups_of(catalog) == {rank: {((0, 1, 2, 3), "inferred")} for rank in range(4)}
    # Now the transfer can be told from the wait: call 0 has 1 as its last rank, 10 us.
    calls = catalog.sql(
        "SELECT rank, ranks_seen, transfer_ns, wait_ns FROM collective_transfers WHERE sequence = 0 AND bytes = 2048 "
        "ORDER BY rank"
    ).to_pylist()
    assert [(c["ranks_seen"], c["transfer_ns"], c["wait_ns"]) for c in calls] == [
        (4, 10_100, 49_900),
        (4, 10_100, 0),
        (4, 10_100, 40_100),
        (4, 10_100, 45_200),
    ]
    (note,) = catalog.sql(
        "SELECT sum(count) AS n FROM ingest WHERE reason LIKE 'their ranks are inferred%'"
    ).to_pylist()
    assert note["n"] == 16
    (nodes,) = catalog.sql("SELECT DISTINCT nodes FROM collectives").to_pylist()
    assert nodes["nodes"] == 1


def test_groups_beside_each_other_are_told_apart(tmp_path: Path) -> None:
    found = groups_of(traces(tmp_path, PAIRS, [[0, 1], [2, 3]]))
    assert found == {
        0: {((0, 1), "inferred")},
        1: {((0, 1), "inferred")},
        2: {((2, 3), "inferred")},
        3: {((2, 3), "inferred")},
    }


def test_groups_in_step_with_each_other_are_left_unknown(tmp_path: Path) -> None:
    """0 and 2 as well as 1 and 3 come at the same moments: two groups of two look like one of four."""
    begins = {0: PAIRS[0], 2: PAIRS[0], 1: PAIRS[1], 3: PAIRS[1]}
    assert groups_of(traces(tmp_path, begins, [[0, 1], [2, 3]])) == dict.fromkeys(range(4), UNKNOWN)


def test_calls_that_begin_together_show_nothing(tmp_path: Path) -> None:
    begins = {rank: [at + rank for at in PAIRS[0]] for rank in (0, 1)}
    assert groups_of(traces(tmp_path, begins, [[0, 1]])) == dict.fromkeys((0, 1), UNKNOWN)


def test_nothing_is_inferred_where_ranks_are_missing(tmp_path: Path) -> None:
    assert groups_of(traces(tmp_path, ALL, [[0, 1, 2, 3]], world=8)) == dict.fromkeys(range(4), UNKNOWN)


def test_a_rank_whose_trace_lacks_a_call_leaves_its_group_unknown(tmp_path: Path) -> None:
    def lose(rank: int, trace: Kineto) -> None:
        if rank == 3:
            del trace.events[-3:]

    assert groups_of(traces(tmp_path, ALL, [[0, 1, 2, 3]], change=lose)) == dict.fromkeys(range(4), UNKNOWN)


def test_calls_of_another_size_or_clock_do_not_match(tmp_path: Path) -> None:
    def enlarge(rank: int, trace: Kineto) -> None:
        for event in trace.events:
            if rank == 1 and "In msg nelems" in event["args"]:
                event["args"] |= {"In msg nelems": 99, "Out msg nelems": 99}

    def shift(rank: int, trace: Kineto) -> None:
        for event in trace.events if rank == 1 else ():
            event["ts"] += 500_000

    for number, change in enumerate((enlarge, shift)):
        (tmp_path / str(number)).mkdir()
        found = groups_of(traces(tmp_path / str(number), PAIRS, [[0, 1], [2, 3]], change=change))
        assert found[0] == found[1] == UNKNOWN


def test_point_to_point_calls_stay_unknown(tmp_path: Path) -> None:
    def send(rank: int, trace: Kineto) -> None:
        trace.kernel(P2P, 850, 900, 20, stream=20)

    catalog = traces(tmp_path, ALL, [[0, 1, 2, 3]], change=send)
    assert groups_of(catalog)[0] == {((0, 1, 2, 3), "inferred")}
    rows = catalog.sql("SELECT DISTINCT group_ranks, group_source FROM collectives WHERE op = 'p2p'").to_pylist()
    assert rows == [{"group_ranks": None, "group_source": None}]


def test_a_group_that_the_trace_names_is_from_the_trace(tmp_path: Path) -> None:
    def name(rank: int, trace: Kineto) -> None:
        for event in trace.events:
            if event["name"] == "record_param_comms":
                event["args"] |= {"Process Group Name": "5", "Group size": 2, "Process Group Ranks": "[0, 1]"}

    begins = {rank: PAIRS[rank] for rank in (0, 1)}
    catalog = traces(tmp_path, begins, [[0, 1]], change=name)
    assert groups_of(catalog) == {rank: {((0, 1), "trace")} for rank in (0, 1)}
    assert catalog.sql("SELECT DISTINCT group_name FROM collectives").to_pylist() == [{"group_name": "5"}]


def made_up(random: np.random.Generator, tp: int, dp: int, layers: int, noise: float) -> list[tuple[str, Channel]]:
    """Channels of a job: tensor parallel ranks exchange in each layer, data parallel ones at the end of each step."""
    count = tp * dp
    groups = {
        "tp": [list(range(first, first + tp)) for first in range(0, count, tp)],
        "dp": [list(range(first, count, tp)) for first in range(tp)],
    }
    now = random.uniform(0, 300_000 * noise, count)
    times: dict[tuple[str, int], list[tuple[int, int]]] = {(n, r): [] for n in groups for r in range(count)}

    def call(name: str, transfer: float) -> None:
        for group in groups[name]:
            begin = now[group]
            now[group] = (
                begin.max() + transfer * (1 + abs(random.normal(0, 0.03))) + abs(random.normal(0, 2000, len(group)))
            )
            for rank, at in zip(group, begin, strict=True):
                times[name, rank].append((int(at), int(now[rank])))

    for _ in range(3):
        for _ in range(layers):
            now += 300_000 * (1 + noise * random.standard_normal(count).clip(-2, 2))
            call("tp", 50_000)
        call("dp", 250_000)
    channels = []
    for (name, rank), calls in times.items():
        table = np.array(calls)
        joint = np.ones(len(table), dtype=bool)
        channels.append(
            (name, Channel(rank, "", np.zeros(len(table), dtype=np.int64), table[:, 0], table[:, 1], joint))
        )
    return channels


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3, 1.0])
def test_what_is_inferred_is_right(noise: float) -> None:
    """Data parallel ranks of one tensor parallel group are in step: what cannot be known of them is not said."""
    random = np.random.default_rng(0)
    right = 0
    for tp, dp in ((2, 2), (2, 4), (4, 2), (1, 8), (8, 1)):
        for layers in (1, 4, 20):
            for _ in range(5):
                channels = made_up(random, tp, dp, layers, noise)
                for group in matched([channel for _, channel in channels]):
                    names = {channels[place][0] for place in group}
                    ranks = [channels[place][1].rank for place in group]
                    together = [r // tp if names == {"tp"} else r % tp for r in ranks]
                    assert len(names) == len(set(together)) == 1
                    assert len(ranks) == (tp if names == {"tp"} else dp)
                    right += 1
    assert (right > 20) is (noise >= 0.3)
