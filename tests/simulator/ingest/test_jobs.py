"""Traces of several jobs in one place: each job is a run, and it is said what told them apart."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from simulator.ingest.build import BASE_NS, Kineto, nsight_report, training_step
from vtrain_sim.ingest import Ingested, ingest

HOUR_US = 3600 * 10**6


def write(path: Path, rank: int, world: int = 2, at: float = 0.0, **distributed: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    trace = Kineto(rank, world)
    trace.metadata["distributedInfo"] |= distributed
    training_step(trace, at)
    trace.write(path)


def runs(result: Ingested) -> dict[str, list[int]]:
    """Ranks by run."""
    return {
        Path(place).name.removeprefix("run_id="): sorted(
            int(p.stem.removeprefix("rank=")) for p in Path(place, "table=ranks").iterdir()
        )
        for place in result.directories
    }


@pytest.mark.parametrize(
    ("other", "reason"),
    [({"at": HOUR_US}, "when they ran"), ({"nccl_version": "2.18.1"}, "what they say of their job")],
)
def test_ranks_of_two_jobs_are_two_runs(tmp_path: Path, other: dict[str, object], reason: str) -> None:
    for rank in range(4):
        write(tmp_path / "jobs" / f"rank{rank}.json", rank, 4, **(other if rank > 1 else {}))  # type: ignore[arg-type]
    result = ingest([str(tmp_path / "jobs")], tmp_path / "out")
    assert runs(result) == {"jobs": [0, 1], "jobs-2": [2, 3]}
    (notice,) = result.notices
    assert f"4 traces of 2 jobs, told apart by {reason}" in notice
    # And the second time nothing is read.
    assert [r.unchanged for r in ingest([str(tmp_path / "jobs")], tmp_path / "out").runs] == [True, True]


def test_ranks_of_one_job_may_begin_some_minutes_apart(tmp_path: Path) -> None:
    for rank in range(4):
        write(tmp_path / "job" / f"rank{rank}.json", rank, 4, at=rank * HOUR_US / 20)
    result = ingest([str(tmp_path / "job")], tmp_path / "out")
    assert (runs(result), result.notices) == ({"job": [0, 1, 2, 3]}, [])


def test_the_same_ranks_twice_are_told_apart_by_their_names(tmp_path: Path) -> None:
    for name in ("base", "fast"):
        for rank in (0, 1):
            write(tmp_path / "t" / f"{name}_rank{rank}.json", rank)
    result = ingest([str(tmp_path / "t")], tmp_path / "out")
    assert runs(result) == {"base_rank": [0, 1], "fast_rank": [0, 1]}
    assert "told apart by their names" in result.notices[0]


def test_the_same_ranks_twice_are_told_apart_by_their_times(tmp_path: Path) -> None:
    """As the profiler's handler names files: host, process, moment."""
    for at in (0, 1):
        for rank in (0, 1):
            write(tmp_path / "t" / f"node_{40 + rank}.{1700 + at}.pt.trace.json", rank, at=at * 30e6 + rank * 1e6)
    result = ingest([str(tmp_path / "t")], tmp_path / "out")
    assert sorted(runs(result).values()) == [[0, 1], [0, 1]]
    assert "told apart by when they ran" in result.notices[0]


def test_what_cannot_be_told_apart_is_a_run_each(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for rank in (0, 1):
            write(tmp_path / "t" / f"{name}{rank}.json", rank, at=rank * 1e6)
    result = ingest([str(tmp_path / "t")], tmp_path / "out")
    assert runs(result) == {"a0": [0], "a1": [1], "b0": [0], "b1": [1]}
    assert "more than one of rank 0, 1: each became a run of its own" in result.notices[0]


def session(path: Path, epoch_ns: int, lasted_ns: int) -> None:
    path.parent.mkdir(exist_ok=True)
    nsight_report(path)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE TARGET_INFO_SESSION_START_TIME SET utcEpochNs = ?", (epoch_ns,))
        db.execute("CREATE TABLE ANALYSIS_DETAILS (globalVid INT, duration INT, startTime INT, stopTime INT)")
        booted = 26_590_627_110_965  # times of the machine's clock, not of the session's
        db.execute("INSERT INTO ANALYSIS_DETAILS VALUES (0, ?, ?, ?)", (lasted_ns, booted, booted + lasted_ns))


@pytest.mark.parametrize(
    ("later_s", "expected"), [(20, {"t": [1, 2, 3, 4]}), (200, {"report1": [0, 1], "report2": [0, 1]})]
)
def test_sessions_that_do_not_overlap_are_different_jobs(
    tmp_path: Path, later_s: int, expected: dict[str, list[int]]
) -> None:
    """Nsight Systems numbers the reports of one directory: report1, report2."""
    for number in (0, 1):
        session(tmp_path / "t" / f"report{number + 1}.sqlite", BASE_NS + number * later_s * 10**9, 30 * 10**9)
    assert runs(ingest([str(tmp_path / "t")], tmp_path / "out")) == expected
