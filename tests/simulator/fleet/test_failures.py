"""Failures of nodes: what was trained since the last checkpoint is lost, and no more."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.fleet.cases import ALL, DEADLINES_KEPT, NODE, by_job, check_gangs, check_jobs, conditions, fleets
from vtrain_sim.decide.failures import Failures
from vtrain_sim.decide.fleet import Conditions, Job, SpeedTable, placement, policies, simulate
from vtrain_sim.decide.fleet.breakdowns import Breakdowns, Repairs
from vtrain_sim.decide.fleet.checkpoints import Checkpoints
from vtrain_sim.errors import UserError

PACKED = placement.get("packed")


@settings(max_examples=120, deadline=None)
@given(fleets(10), st.sampled_from(ALL), conditions(failing=True))
def test_work_is_conserved_under_failures(fleet, name: str, given_conditions: Conditions) -> None:
    jobs, tables, capacity = fleet
    if name in DEADLINES_KEPT and capacity % NODE and any(min(t.gpus) > capacity - NODE for t in tables.values()):
        return
    outcome = simulate(jobs, tables, capacity, policies.get(name), conditions=given_conditions)
    assert outcome == simulate(jobs, tables, capacity, policies.get(name), conditions=given_conditions)
    check_jobs(jobs, outcome)
    check_gangs(outcome, capacity)


@settings(max_examples=200, deadline=None)
@given(fleets(30), st.sampled_from(DEADLINES_KEPT), conditions(failing=True))
def test_what_is_promised_after_the_last_failure_is_kept(fleet, name: str, given_conditions: Conditions) -> None:
    """Nodes that are repaired later break no promise."""
    jobs, tables, capacity = fleet
    if capacity % NODE and any(min(t.gpus) > capacity - NODE for t in tables.values()):
        return
    outcome = simulate(jobs, tables, capacity, policies.get(name), conditions=given_conditions)
    assert outcome.hardware is not None
    last = max((since for _, since, _ in outcome.hardware.outages), default=-1.0)
    for job in jobs:
        if job.arrival_s > last and math.isfinite(job.deadline_s) and job.job_id not in outcome.rejected:
            assert outcome.finished_s[job.job_id] <= job.deadline_s * (1 + 1e-12)


def failing(seed: int, mtbf_hours: float = 40.0, state: float = 0.0, restart_s: float | None = 30.0) -> Conditions:
    checkpoints = Checkpoints(restart_s, {("x", 1): state}, 1e9, NODE)
    return Conditions(checkpoints, PACKED, NODE, breakdowns=Breakdowns(mtbf_hours, 1.0, seed))


def test_failures_are_the_same_for_a_seed_and_as_often_as_said() -> None:
    sizes = np.full(16, 8)
    gaps = []
    for seed in range(3):
        one, two = Repairs(Breakdowns(1000.0, 1.0, seed), sizes), Repairs(Breakdowns(1000.0, 1.0, seed), sizes)
        happened = [(one.next_s, *one.happen()) for _ in range(4000)]
        assert happened == [(two.next_s, *two.happen()) for _ in range(4000)]
        failed = [time for time, _, fails in happened if fails]
        gaps.append(float(np.mean(np.diff(failed))) / 3600)
        down: set[int] = set()
        for _, node, fails in happened:
            assert (node in down) != fails
            down ^= {node}
    # 128 GPUs, of which a few are out for an hour and do not fail then.
    assert np.mean(gaps) == pytest.approx(1000 / 128, rel=0.2)
    assert len(set(gaps)) == 3


def test_a_failure_undoes_what_was_trained_since_the_last_checkpoint() -> None:
    """By hand: checkpoints of 10 s (10 GB at 1 GB/s), at the best interval."""
    job = Job("a", 0.0, "x", 1, 100_000, 4)
    outcome = simulate(
        [job], {("x", 1): SpeedTable((4,), (1.0,))}, 4, policies.get("fifo"), conditions=failing(3, 8.0, 1e10)
    )
    interval = Failures(8.0, 10.0).best_interval_s(4)
    assert interval == pytest.approx(math.sqrt(2 * 10 * 7200), rel=0.05)
    pace = 1 + 10.0 / interval
    own = by_job(outcome)["a"]
    assert len(own) > 3
    for stretch in own[:-1]:
        trained = stretch.end_s - stretch.resume_s
        assert stretch.iterations == pytest.approx(trained / pace)
        assert stretch.lost == pytest.approx(trained % (interval + 10.0) / pace)
    assert own[-1].lost == 0.0
    # The node is out for an hour, and the job starts in 30 s.
    for one, two in itertools.pairwise(own):
        assert two.start_s == pytest.approx(one.end_s + 3600)
        assert two.resume_s == pytest.approx(two.start_s + 30)
    figures = outcome.to_dict(1.0)
    assert figures["failures"] >= len(own) - 1
    assert figures["lost_gpu_hours"] == pytest.approx(sum(s.lost for s in own) * pace * 4 / 3600)
    assert figures["down_share"] > 0


def test_reading_a_checkpoint_is_part_of_a_restart() -> None:
    """60 s of start, and 10 s to read; a stop that was planned also writes."""
    costs = Checkpoints(None, {("x", 1): 1e10}, 1e9, 4)
    assert (costs.recovery_s(("x", 1), 4), costs.pause_s(("x", 1), 4)) == (70.0, 80.0)
    assert costs.pause_s(("x", 1), 8) == 70.0  # two nodes, each half of it
    jobs = [Job("low", 0.0, "x", 1, 100, 4), Job("high", 3.0, "x", 1, 10, 4, priority=1)]
    tables = {("x", 1): SpeedTable((4,), (1.0,))}
    outcome = simulate(jobs, tables, 4, policies.get("priority"), conditions=Conditions(costs))
    assert outcome.finished_s == pytest.approx({"high": 13.0, "low": 13.0 + 80.0 + 97.0})


def test_elastic_policies_promise_anew_after_a_failure() -> None:
    """Deadlines with room for a failure are still met, others are not, and no job is lost."""
    rng = np.random.default_rng(5)
    tables = {("x", 1): SpeedTable((4, 8, 16), (4.0, 2.2, 1.3))}
    jobs = []
    for number in range(60):
        arrival, iterations = number * 900.0, int(rng.integers(500, 4000))
        jobs.append(Job(f"j{number}", arrival, "x", 1, iterations, 4, arrival + iterations * 4.0 * rng.uniform(0.5, 2)))
    calm = simulate(
        jobs, tables, 32, policies.get("elasticflow"), conditions=Conditions(Checkpoints(30.0), PACKED, NODE)
    )
    assert calm.late == ()
    struck = simulate(jobs, tables, 32, policies.get("elasticflow"), conditions=failing(1, 12.0))
    check_jobs(jobs, struck)
    assert struck.to_dict(1.0)["failures"] > 10
    assert struck.late
    assert len(struck.late) < len(struck.finished_s) / 2


def test_failures_that_leave_no_time_to_train_are_refused() -> None:
    jobs = [Job("a", 0.0, "x", 1, 10, 4)]
    tables = {("x", 1): SpeedTable((4,), (1.0,))}
    with pytest.raises(UserError, match=r"x would not get on with --gpu-mtbf-hours 0\.01: on 4 GPUs"):
        simulate(jobs, tables, 4, policies.get("fifo"), conditions=failing(0, 0.01, 1e11))
    # A hundred nodes, of which twenty are out at any time.
    wide = {("x", 1): SpeedTable((400,), (1.0,))}
    with pytest.raises(UserError, match="on 400 GPUs so many of the 400 are hardly ever in service together"):
        simulate(jobs, wide, 400, policies.get("fifo"), conditions=failing(0, 20.0))
    ideal = Conditions(breakdowns=Breakdowns(10.0))
    with pytest.raises(UserError, match="--gpu-mtbf-hours needs --placement"):
        simulate(jobs, tables, 4, policies.get("fifo"), conditions=ideal)
