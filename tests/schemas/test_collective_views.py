"""Views of communication: hand-made calls with answers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.view_rows import call, query
from vtrain_schemas.words import RING_PASSES

PLUGIN = [{"source": "plugin"}]
IMPORTED = [{"source": "kineto"}]
STEPS = [{"rank": rank, "step": 1, "start_ns": 0, "duration_ns": 1000} for rank in (0, 1)]


def waits(*calls: dict[str, Any]) -> dict[int, int | None]:
    rows = query("SELECT rank, wait_ns FROM collective_transfers", runs=PLUGIN, collectives=calls)
    return {row["rank"]: row["wait_ns"] for row in rows}


def test_the_wait_is_what_a_rank_takes_beyond_the_shortest() -> None:
    assert waits(call(0, 0, 30), call(1, 20, 10)) == {0: 20, 1: 0}


def test_the_wait_of_an_unknown_group_is_not_known() -> None:
    assert waits(call(0, 0, 30, group_ranks=None), call(1, 20, 10, group_ranks=None)) == {0: None, 1: None}


def test_the_wait_is_not_known_where_one_rank_of_several_was_seen() -> None:
    assert waits(call(0, 0, 30)) == {0: None}


def test_a_group_of_one_waits_for_nobody() -> None:
    assert waits(call(0, 0, 30, group_ranks=[0])) == {0: 0}


def test_exposed_communication_has_no_wait_where_none_is_known() -> None:
    rows = query("SELECT role, wait_ns FROM exposed_communication", runs=PLUGIN, collectives=[call(0, 0, 30)])
    assert rows == [{"role": "tp", "wait_ns": None}]


@pytest.mark.parametrize(
    ("runs", "stage", "expected"),
    [(PLUGIN, 1, (250, 0.25)), (PLUGIN, None, (None, None)), (IMPORTED, 0, (None, None)), ([], 0, (None, None))],
)
def test_a_bubble_is_known_where_the_stage_is(runs: list[dict[str, Any]], stage: int | None, expected: object) -> None:
    source = "kineto" if runs == IMPORTED else "hook"
    (row,) = query(
        "SELECT * FROM pipeline_bubble",
        runs=runs,
        ranks=[{"rank": 0, "pp_rank": stage}],
        steps=STEPS[:1],
        collectives=[call(0, 0, 250, role="pp", source=source), call(0, 300, 100)],
    )
    assert (row["idle_ns"], row["bubble_fraction"]) == expected
    assert row["step_ns"] == 1000


def test_a_stage_without_pipeline_communication_has_no_bubble() -> None:
    (row,) = query(
        "SELECT idle_ns FROM pipeline_bubble", runs=PLUGIN, ranks=[{"rank": 0, "pp_rank": 0}], steps=STEPS[:1]
    )
    assert row == {"idle_ns": 0}


def test_bandwidth_is_of_the_transfer_and_of_one_call_once() -> None:
    """Two sizes on a network of 100 ns and 2 bytes/ns between four ranks, where rank 3 keeps the others waiting."""
    calls = [
        call(
            rank, 0, 100 + size // 2 + (50 if rank < 3 else 0), bytes=size, group_ranks=[0, 1, 2, 3], sequence=sequence
        )
        for sequence, size in enumerate((1000, 1000, 4000))
        for rank in range(4)
    ]
    rows = query("SELECT * FROM collective_bandwidth ORDER BY bytes", collectives=calls)
    assert [(r["bytes"], r["calls"], r["ranks_seen"], r["transfer_ns"]) for r in rows] == [
        (1000, 2, 4, 600),
        (4000, 1, 4, 2100),
    ]
    assert rows[0]["algorithm_gb_per_s"] == pytest.approx(1000 / 600)
    assert rows[0]["bus_gb_per_s"] == pytest.approx(1000 / 600 * 2 * 3 / 4)
    assert {(round(r["fit_latency_ns"], 6), round(r["fit_gb_per_s"], 6)) for r in rows} == {(100, 2)}
    assert rows[0]["fit_r2"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("op", "factor"), [(op, count * 3 / 4) for op, count in RING_PASSES.items()] + [("broadcast", 1), ("reduce", 1)]
)
def test_bus_factors(op: str, factor: float) -> None:
    (row,) = query("SELECT * FROM collective_bandwidth", collectives=[call(0, 0, 500, op=op, group_ranks=[0, 1, 2, 3])])
    assert row["bus_gb_per_s"] == pytest.approx(2 * factor)


def test_both_ends_of_a_transfer_are_one_call() -> None:
    ends = [call(0, 0, 500, op="send"), call(1, 0, 800, op="recv")]
    (row,) = query("SELECT * FROM collective_bandwidth", collectives=ends)
    assert (row["op"], row["calls"], row["transfer_ns"], row["bus_gb_per_s"]) == ("p2p", 1, 500, 2)


def test_an_unknown_operation_has_no_bus_bandwidth_and_one_size_no_fit() -> None:
    (row,) = query("SELECT * FROM collective_bandwidth", collectives=[call(0, 0, 500, op="unknown")])
    assert row["algorithm_gb_per_s"] == pytest.approx(2)
    assert [row[name] for name in ("bus_gb_per_s", "fit_latency_ns", "fit_gb_per_s", "fit_r2")] == [None] * 4


def test_times_that_do_not_grow_have_no_bandwidth() -> None:
    calls = [call(0, 0, time, bytes=size, sequence=size) for size, time in ((1000, 500), (2000, 400))]
    rows = query("SELECT DISTINCT fit_gb_per_s FROM collective_bandwidth", collectives=calls)
    assert rows == [{"fit_gb_per_s": None}]


def test_of_one_rank_alone_the_shortest_tenth_counts() -> None:
    calls = [call(0, 0, 100 * (n + 1), sequence=n) for n in range(11)]
    (row,) = query("SELECT transfer_ns, ranks_seen FROM collective_bandwidth", collectives=calls)
    assert row == {"transfer_ns": 200, "ranks_seen": 1}


def test_calls_of_unknown_groups_have_no_bandwidth() -> None:
    assert not query("SELECT * FROM collective_bandwidth", collectives=[call(0, 0, 500, group_ranks=None)])


def stragglers(*calls: dict[str, Any]) -> list[tuple[Any, ...]]:
    rows = query("SELECT * FROM stragglers ORDER BY ALL", runs=PLUGIN, steps=STEPS, collectives=calls)
    return [tuple(row[name] for name in ("role", "cause", "rank", "waiting_rank", "calls", "lost_ns")) for row in rows]


def test_a_rank_that_computes_longer_makes_the_other_wait() -> None:
    assert stragglers(call(0, 100, 150), call(1, 200, 50)) == [("tp", "compute", 1, 0, 1, 100)]


def test_the_clocks_of_two_ranks_need_not_agree() -> None:
    """The same, with rank 1's clock 10 us ahead."""
    steps = [STEPS[0], {**STEPS[1], "start_ns": 10_000}]
    rows = query(
        "SELECT cause, rank, lost_ns FROM stragglers",
        runs=PLUGIN,
        steps=steps,
        collectives=[call(0, 100, 150), call(1, 10_200, 50)],
    )
    assert rows == [{"cause": "compute", "rank": 1, "lost_ns": 100}]


def test_a_rank_that_is_held_up_in_another_group_is_not_slow_itself() -> None:
    """Ranks 1 and 2 share a group: 2 comes late to it, so that 1 comes late to its call with 0."""
    other = {"role": "dp", "group_ranks": [1, 2]}
    calls = [call(1, 100, 150, **other), call(2, 200, 50, **other), call(0, 150, 210), call(1, 300, 60)]
    steps = [*STEPS, {"rank": 2, "step": 1, "start_ns": 0, "duration_ns": 1000}]
    rows = query("SELECT * FROM stragglers ORDER BY role", runs=PLUGIN, steps=steps, collectives=calls)
    assert [(r["role"], r["cause"], r["rank"], r["waiting_rank"], r["lost_ns"]) for r in rows] == [
        ("dp", "compute", 2, 1, 100),
        ("tp", "communication", 1, 0, 150),
    ]


def test_what_counts_is_the_work_since_the_last_call_together() -> None:
    """Rank 0 came late to the first call; to the second one rank 1 does."""
    calls = [call(0, 300, 50), call(1, 100, 250), call(0, 400, 100, sequence=1), call(1, 450, 50, sequence=1)]
    assert stragglers(*calls) == [("tp", "compute", 0, 1, 1, 200), ("tp", "compute", 1, 0, 1, 50)]


def test_a_slow_transfer_is_nobodys_fault() -> None:
    calls = [call(rank, 100 * n, 20, sequence=n) for n in range(4) for rank in (0, 1)]
    calls += [call(rank, 500, 90 + rank, sequence=4) for rank in (0, 1)]
    assert stragglers(*calls) == [("tp", "network", None, 0, 1, 70), ("tp", "network", None, 1, 1, 70)]


def test_a_rank_may_begin_the_step_late() -> None:
    """Rank 1 begins the step 100 ns after rank 0, by one clock, and does 10 ns more than it."""
    steps = [STEPS[0], {**STEPS[1], "start_ns": 100}]
    calls = [call(0, 100, 160), call(1, 210, 50)]
    (row,) = query(
        "SELECT cause, last_rank, lost_ns, late_work_ns, late_begin_ns FROM collective_delays WHERE rank = 0",
        runs=PLUGIN,
        steps=steps,
        collectives=calls,
    )
    assert tuple(row.values()) == ("begin", 1, 110, 10, 100)


def test_a_receiver_that_is_blocked_waits_for_its_sender() -> None:
    ends = {"role": "pp", "is_async": True}
    calls = [call(0, 300, None, op="send", **ends), call(1, 50, None, op="recv", **ends)]
    calls[0]["exposed_ns"], calls[1]["exposed_ns"] = 10, 270
    assert stragglers(*calls) == [("pp", "compute", 0, 1, 1, 260)]


def test_other_asynchronous_calls_and_single_ranks_say_nothing() -> None:
    assert stragglers(call(0, 100, None), call(1, 200, None), call(0, 300, 50, sequence=1)) == []
