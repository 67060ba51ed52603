"""The critical path of hand-made steps, worked out by hand; and that of a run, in the terminal and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from schemas.view_rows import call, kernel, profile
from simulator.api.workplace import furnish
from vtrain_sim.catalog.critical_path import CriticalPath, read_critical_path
from vtrain_sim.commands import catalog as command
from vtrain_sim.errors import UserError

RUNS = [{"source": "plugin"}]
IMPORTED = [{"source": "kineto"}]
ONE_HOST = [{"rank": rank, "host": "a"} for rank in range(3)]
TWO_HOSTS = [{"rank": rank, "host": f"host-{rank}"} for rank in range(3)]
BEGIN = 1_000_000


def steps(*durations: int, shifted: dict[int, int] | None = None) -> list[dict[str, Any]]:
    """A step on each rank, from `BEGIN` by its clock. shifted: by rank, how far its clock is ahead."""
    ahead = shifted or {}
    return [
        {"rank": rank, "step": 1, "start_ns": BEGIN + ahead.get(rank, 0), "duration_ns": duration}
        for rank, duration in enumerate(durations)
    ]


def span(rank: int, number: int, name: str, start: int, duration: int, **columns: Any) -> dict[str, Any]:
    """A span below the step's own, whose number is 0."""
    common = {"rank": rank, "step": 1, "span_id": number, "name": name, "kind": "linear", "phase": "forward"}
    return {**common, "parent_id": 0, "start_ns": BEGIN + start, "duration_ns": duration, **columns}


def root(rank: int, duration: int) -> dict[str, Any]:
    return span(rank, 0, "step", 0, duration, kind="step", phase="update", parent_id=None)


def pieces(path: CriticalPath) -> list[tuple[Any, ...]]:
    return [(p.rank, p.kind, p.name, p.duration_ns) for p in path.pieces]


def path_of(**tables: Any) -> CriticalPath:
    with profile(**{"runs": RUNS, "ranks": ONE_HOST, **tables}) as connection:
        return read_critical_path(connection, "r")


def two_ranks(ahead: int = 0) -> dict[str, Any]:
    """Rank 1 computes 300 ns, rank 0 100 ns; a transfer of 50 ns; then 100 ns on rank 0, 60 ns on rank 1."""
    spans = [root(0, 450), span(0, 1, "mlp.fc1", 0, 100), span(0, 2, "mlp.fc2", 350, 100)]
    late = [root(1, 410), span(1, 1, "mlp.fc1", 0, 300), span(1, 2, "mlp.fc2", 350, 60)]
    calls = [call(0, BEGIN + 100, 250), call(1, BEGIN + 300, 50)]
    for row in (*late, calls[1]):
        row["start_ns"] += ahead
    return {"steps": steps(450, 410, shifted={1: ahead}), "spans": [*spans, *late], "collectives": calls}


EXPECTED = [(1, "compute", "fc1", 300), (0, "communication", "all_reduce tp", 50), (0, "compute", "fc2", 100)]


def test_the_path_goes_on_with_the_rank_that_came_last() -> None:
    path = path_of(**two_ranks())
    assert pieces(path) == EXPECTED
    assert path.path_ns == path.step_ns == 450
    assert [piece.waited_for for piece in path.pieces] == [None, 1, None]


@pytest.mark.parametrize("hosts", [TWO_HOSTS, [{"rank": rank, "host": "unknown"} for rank in range(2)], []])
def test_clocks_of_two_hosts_are_not_compared_in_a_call(hosts: list[dict[str, Any]]) -> None:
    """Rank 1's clock is 30 ns behind: the call's shortest duration says how long the transfer took."""
    assert pieces(path_of(ranks=hosts, **two_ranks(-30))) == EXPECTED


def test_ranks_of_one_host_leave_a_call_when_their_clock_says() -> None:
    """Rank 0 left it 10 ns after rank 1: that is on the path too."""
    tables = two_ranks()
    tables["collectives"][0]["duration_ns"] += 10
    tables["spans"][2] |= {"start_ns": BEGIN + 360, "duration_ns": 90}
    assert pieces(path_of(**tables))[1:] == [(0, "communication", "all_reduce tp", 60), (0, "compute", "fc2", 90)]


def test_a_call_of_an_unknown_group_is_not_crossed() -> None:
    tables = two_ranks()
    for row in tables["collectives"]:
        row["group_ranks"] = None
    path = path_of(**tables)
    assert {piece.rank for piece in path.pieces} == {0}
    assert pieces(path)[1] == (0, "communication", "all_reduce tp", 250)


def test_the_innermost_span_counts() -> None:
    spans = [root(0, 100), span(0, 1, "layer", 10, 80), span(0, 2, "layer.norm", 20, 30, parent_id=1)]
    assert pieces(path_of(steps=steps(100), spans=spans)) == [
        (0, "compute", "step", 10),
        (0, "compute", "layer", 10),
        (0, "compute", "norm", 30),
        (0, "compute", "layer", 40),
        (0, "compute", "step", 10),
    ]


def test_a_stage_waits_for_the_one_that_sends() -> None:
    """Rank 0 sends after 200 ns; rank 1 waits for it from the begin, then works 100 ns."""
    ends = {"role": "pp", "is_async": True}
    sent = call(0, BEGIN + 200, None, op="send", span_id=2, **ends)
    received = call(1, BEGIN, None, op="recv", span_id=1, **ends)
    sent["exposed_ns"], received["exposed_ns"] = 5, 220
    spans = [root(0, 210), span(0, 1, "fc1", 0, 195), span(0, 2, "p2p", 195, 15, kind="p2p")]
    spans += [root(1, 320), span(1, 1, "p2p", 0, 220, kind="p2p"), span(1, 2, "fc2", 220, 100)]
    path = path_of(steps=steps(210, 320), spans=spans, collectives=[sent, received])
    assert pieces(path) == [
        (0, "compute", "fc1", 195),
        (0, "communication", "send pp", 5),
        (1, "communication", "recv pp", 20),
        (1, "compute", "fc2", 100),
    ]


def test_gradients_are_waited_for_where_they_are_synchronised() -> None:
    """Both ranks reduce a bucket in the background; rank 1 issues it at 300 ns, rank 0 waits for it."""
    bucket = {"role": "dp", "is_async": True}
    calls = [call(0, BEGIN + 100, None, span_id=1, **bucket), call(1, BEGIN + 300, None, span_id=1, **bucket)]
    calls[0]["exposed_ns"], calls[1]["exposed_ns"] = 200, 50
    sync = {"kind": "grad_sync", "phase": "update"}
    spans = [root(0, 420), span(0, 1, "fc1", 0, 200), span(0, 2, "finish", 200, 200, **sync)]
    spans += [root(1, 400), span(1, 1, "fc1", 0, 350), span(1, 2, "finish", 350, 50, **sync)]
    path = path_of(steps=steps(420, 400), spans=spans, collectives=calls)
    assert pieces(path) == [
        (1, "compute", "fc1", 300),
        (0, "communication", "all_reduce dp", 100),
        (0, "compute", "step", 20),
    ]


def test_gaps_between_kernels_have_a_cause() -> None:
    kernels = [
        kernel("a", BEGIN + 50, 100, launch=BEGIN + 30, operator="aten::mm"),
        kernel("b", BEGIN + 180, 100, launch=BEGIN + 100),
        kernel("c", BEGIN + 400, 100, launch=BEGIN + 350),
    ]
    path = path_of(steps=steps(600), kernels=kernels)
    assert pieces(path) == [
        (0, "host", "before aten::mm", 30),
        (0, "launch", "launch by aten::mm", 20),
        (0, "compute", "a", 100),
        (0, "gap", "between kernels", 30),
        (0, "compute", "b", 100),
        (0, "host", "before the operator of c", 70),
        (0, "launch", "launch by the operator of c", 50),
        (0, "compute", "c", 100),
        (0, "host", "after the last kernel", 100),
    ]
    assert path.summary()["host_s"] == pytest.approx(200e-9)


def test_a_device_may_still_be_busy_with_the_step_before() -> None:
    path = path_of(steps=steps(10_000), kernels=[kernel("a", BEGIN + 50_000, 100, launch=BEGIN + 2000)])
    assert pieces(path) == [
        (0, "host", "before the operator of a", 2000),
        (0, "queued", "work of the step before", 48_000),
        (0, "compute", "a", 100),
    ]
    assert path.path_ns == path.step_ns == 50_100


def test_the_last_to_end_is_waited_for_but_the_own_stream_first() -> None:
    """c begins when x of the other stream ends; x and a end together, but b follows a at once."""
    kernels = [
        kernel("a", BEGIN, 10_000, launch=BEGIN),
        kernel("w", BEGIN, 11_000, launch=BEGIN, stream=9),
        kernel("b", BEGIN + 12_000, 10_000, launch=BEGIN),
        kernel("x", BEGIN + 12_000, 38_000, launch=BEGIN, stream=9),
        kernel("c", BEGIN + 50_000, 10_000, launch=BEGIN),
    ]
    path = path_of(steps=steps(60_000), kernels=kernels)
    assert [(p.kind, p.name) for p in path.pieces] == [
        ("compute", "w"),
        ("gap", "between kernels"),
        ("compute", "x"),
        ("compute", "c"),
    ]
    path = path_of(steps=steps(22_000), kernels=kernels[:3])
    assert [p.name for p in path.pieces] == ["a", "between kernels", "b"]


def test_kernels_of_a_call_cross_ranks() -> None:
    """As the spans above, in microseconds on two devices: the call is found by the kernel's times."""
    kernels, calls, us = [], [], 1000
    for rank, arrival, duration, after in ((0, 100, 250, 100), (1, 300, 50, 60)):
        at = BEGIN + arrival * us
        kernels.append(kernel("gemm_a", BEGIN, arrival * us, launch=BEGIN, rank=rank))
        kernels.append(kernel("nccl", at, duration * us, BEGIN, rank=rank, stream=20, kind="communication"))
        kernels.append(kernel("gemm_b", BEGIN + 350 * us, after * us, launch=BEGIN, rank=rank))
        calls.append(call(rank, at, duration * us, source="kineto"))
    path = path_of(runs=IMPORTED, steps=steps(450 * us, 410 * us), kernels=kernels, collectives=calls)
    assert pieces(path) == [
        (1, "compute", "gemm_a", 300 * us),
        (0, "communication", "all_reduce tp", 50 * us),
        (0, "compute", "gemm_b", 100 * us),
    ]


def test_of_two_that_come_together_the_path_stays() -> None:
    """Three ranks; the first ends the step last, and came to the call together with the second."""
    group = {"group_ranks": [0, 1, 2]}
    calls = [call(0, BEGIN + 300, 50, **group), call(1, BEGIN + 300, 50, **group), call(2, BEGIN + 100, 250, **group)]
    spans = [root(0, 450), root(1, 400), root(2, 400)]
    path = path_of(steps=steps(450, 400, 400), spans=spans, collectives=calls)
    assert pieces(path) == [
        (0, "compute", "step", 300),
        (0, "communication", "all_reduce tp", 50),
        (0, "compute", "step", 100),
    ]
    path = path_of(steps=steps(400, 400, 450), spans=[root(0, 400), root(1, 400), root(2, 450)], collectives=calls)
    assert [piece.rank for piece in path.pieces] == [0, 2, 2]


def test_a_path_ends_whatever_the_clocks_say() -> None:
    """Two calls, to each of which the other rank came last, by clocks that contradict each other."""
    calls = [
        call(rank, BEGIN + 100 + at, duration, op=op)
        for op, rank, at, duration in (
            ("all_reduce", 0, 0, 300),
            ("all_reduce", 1, 100, 10),
            ("all_gather", 0, 350, 10),
            ("all_gather", 1, 50, 250),
        )
    ]
    path = path_of(steps=steps(500, 500), spans=[root(0, 500), root(1, 500)], collectives=calls)
    assert sum(p.waited_for is not None for p in path.pieces) <= 2


def test_what_was_not_captured_is_said() -> None:
    said = "step 7 of run 'r' was not captured: the catalog has 1"
    with profile(runs=RUNS, steps=steps(10)) as connection, pytest.raises(UserError, match=said):
        read_critical_path(connection, "r", 7)
    with profile(runs=RUNS) as connection, pytest.raises(UserError, match="has no captured steps"):
        read_critical_path(connection, "r")


def test_rows_add_up_to_the_path() -> None:
    path = path_of(**two_ranks())
    assert sum(row["duration_s"] for row in path.rows()) == pytest.approx(450e-9)
    assert sum(row["share"] for row in path.rows()) == pytest.approx(1)
    assert path.rows()[0] | {"duration_s": 0, "share": 0} == {
        "rank": 1,
        "kind": "compute",
        "name": "fc1",
        "phase": "forward",
        "calls": 1,
        "duration_s": 0,
        "share": 0,
    }


def test_the_command_prints_a_table_and_json(tmp_path: Path) -> None:
    furnish(tmp_path)
    place = ["--catalog", str(tmp_path / "vtrain.duckdb")]
    shown = CliRunner().invoke(command.app, ["critical-path", "base", *place])
    assert shown.exit_code == 0
    assert "run base, step 1: the critical path takes" in shown.stdout
    document = json.loads(CliRunner().invoke(command.app, ["critical-path", "base", "--json", *place]).stdout)
    assert document["schema"] == "vtrain.critical-path/1"
    assert document["path_s"] == document["step_s"]
    assert sum(piece["duration_ns"] for piece in document["pieces"]) == pytest.approx(document["path_s"] * 1e9)
