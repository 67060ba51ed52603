"""Policies: each keeps all jobs, and does what it is named for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.fleet.cases import ALL, DEADLINES_KEPT, by_job, check_counts, check_gangs, check_jobs, conditions, fleets
from vtrain_sim.decide.fleet import Conditions, Job, SpeedTable, elastic, policies, simulate
from vtrain_sim.decide.fleet.policies import Jobs, by_arrival
from vtrain_sim.decide.fleet.policies.elastic_flow import ElasticFlow
from vtrain_sim.decide.fleet.queue import Queue
from vtrain_sim.decide.fleet.running import Allocation
from vtrain_sim.errors import UserError

ONE = {("x", 1): SpeedTable((4, 8), (2.0, 1.0))}
LINEAR = {("x", 1): SpeedTable((1, 2, 4, 8), (8.0, 4.0, 2.0, 1.0))}


@settings(max_examples=150, deadline=None)
@given(fleets(), st.sampled_from(ALL), st.sampled_from([0.0, 5.0, 60.0]))
def test_every_policy_trains_every_job_once(fleet, name: str, restart_s: float) -> None:
    jobs, tables, capacity = fleet
    outcome = simulate(jobs, tables, capacity, policies.get(name), restart_s)
    assert outcome == simulate(jobs, tables, capacity, policies.get(name), restart_s)
    check_jobs(jobs, outcome)
    check_counts(outcome, capacity)


@settings(max_examples=200, deadline=None)
@given(fleets(), st.sampled_from(ALL), conditions())
def test_gangs_are_whole_and_no_gpu_is_used_twice(fleet, name: str, given_conditions: Conditions) -> None:
    jobs, tables, capacity = fleet
    if name in DEADLINES_KEPT and capacity % 4 and any(min(t.gpus) > capacity - capacity % 4 for t in tables.values()):
        return  # takes GPUs that are on no whole node: refused
    outcome = simulate(jobs, tables, capacity, policies.get(name), conditions=given_conditions)
    assert outcome == simulate(jobs, tables, capacity, policies.get(name), conditions=given_conditions)
    check_jobs(jobs, outcome)
    check_gangs(outcome, capacity)


@settings(max_examples=300, deadline=None)
@given(fleets(30), st.sampled_from(DEADLINES_KEPT), conditions())
def test_deadlines_are_kept_wherever_gangs_are_placed(fleet, name: str, given_conditions: Conditions) -> None:
    jobs, tables, capacity = fleet
    if capacity % 4 and any(min(t.gpus) > capacity - capacity % 4 for t in tables.values()):
        return
    outcome = simulate(jobs, tables, capacity, policies.get(name), conditions=given_conditions)
    for job in jobs:
        if job.job_id not in outcome.rejected and math.isfinite(job.deadline_s):
            assert outcome.finished_s[job.job_id] <= job.deadline_s * (1 + 1e-12)


class _All(ElasticFlow):
    """Looks at all jobs that wait."""

    def allocate(self, running: Jobs, waiting: Queue, now: float) -> Allocation:
        jobs = sorted((*running.values(), *waiting), key=by_arrival)
        given = elastic.allocate(jobs, now, self.site)
        self._next_step_s = elastic.next_step(jobs)
        return given


@settings(max_examples=150, deadline=None)
@given(fleets(40), st.sampled_from([0.0, 5.0, 60.0]), st.booleans())
def test_jobs_that_could_not_start_need_not_be_looked_at(fleet, restart_s: float, dated: bool) -> None:
    jobs, tables, capacity = fleet
    jobs = jobs if dated else [replace(job, deadline_s=math.inf) for job in jobs]
    usual = policies.get("elastic-plans")
    outcome = simulate(jobs, tables, capacity, usual, restart_s)
    assert outcome == simulate(jobs, tables, capacity, replace(usual, name="all", scheduler=_All), restart_s)


def test_largest_priority_first_by_hand() -> None:
    """A job of larger priority stops one that runs, which goes on after a restart."""
    jobs = [Job("low", 0.0, "x", 1, 10, 8), Job("high", 3.0, "x", 1, 10, 8, priority=1)]
    outcome = simulate(jobs, ONE, 8, policies.get("priority"), 5.0)
    assert outcome.finished_s == pytest.approx({"high": 13.0, "low": 13.0 + 5.0 + 7.0})


def test_least_attained_service_by_hand() -> None:
    """The median of the service requested is 80 GPU-seconds: a job that had as much gives way to one that came later."""
    jobs = [Job("long", 0.0, "x", 1, 100, 8), Job("b", 5.0, "x", 1, 10, 8), Job("c", 6.0, "x", 1, 5, 8)]
    outcome = simulate(jobs, ONE, 8, policies.get("tiresias"), 0.0)
    assert outcome.finished_s == pytest.approx({"b": 20.0, "c": 25.0, "long": 115.0})
    assert [s.end_s for s in by_job(outcome)["long"]] == pytest.approx([10.0, 115.0])


def test_rounds_take_turns_by_hand() -> None:
    """Rounds of a minute: two jobs that each want all GPUs have them in turn."""
    jobs = [Job("a", 0.0, "x", 1, 150, 8), Job("b", 0.0, "x", 1, 150, 8)]
    outcome = simulate(jobs, ONE, 8, policies.get("gandiva"), 0.0)
    assert [(s.job_id, s.start_s, s.end_s) for s in outcome.stretches] == [
        ("a", 0.0, 60.0),
        ("b", 60.0, 120.0),
        ("a", 120.0, 180.0),
        ("b", 180.0, 240.0),
        ("a", 240.0, 270.0),
        ("b", 270.0, 300.0),
    ]
    # A restart of a minute makes rounds of twenty.
    slow = simulate(jobs, {("x", 1): SpeedTable((8,), (10.0,))}, 8, policies.get("gandiva"), 60.0)
    assert slow.stretches[0].end_s == 1200.0


def test_the_power_mean_shares_equally_what_helps_equally() -> None:
    """Two jobs that scale linearly have half the cluster each; when one ends, the other takes all, if it pays."""
    jobs = [Job("a", 0.0, "x", 1, 100, 8), Job("b", 0.0, "x", 1, 400, 8)]
    outcome = simulate(jobs, LINEAR, 8, policies.get("pollux"), 1.0)
    first, second = by_job(outcome)["b"]
    assert (first.gpus, first.end_s) == (4, 200.0)
    assert (second.gpus, second.resume_s) == (8, 201.0)
    assert outcome.finished_s == pytest.approx({"a": 200.0, "b": 201.0 + 300.0})


def test_the_power_mean_gives_more_to_whom_it_helps() -> None:
    """One that does not scale has its fewest GPUs."""
    tables = {**LINEAR, ("y", 1): SpeedTable((1, 2, 4), (8.0, 7.9, 7.8))}
    jobs = [Job("a", 0.0, "x", 1, 1000, 8), Job("b", 0.0, "y", 1, 1000, 8)]
    outcome = simulate(jobs, tables, 8, policies.get("pollux"), 1.0)
    assert {s.job_id: s.gpus for s in outcome.stretches if s.start_s == 0.0} == {"a": 4, "b": 4}
    nine = simulate(jobs, tables, 9, policies.get("pollux"), 1.0)
    assert {s.job_id: s.gpus for s in nine.stretches if s.start_s == 0.0} == {"a": 8, "b": 1}


def test_names() -> None:
    assert ALL[:5] == policies.USUAL
    assert all(policies.get(name).says and policies.get(name).source for name in ALL)
    with pytest.raises(UserError, match=r"--policies has 'fifi'.*did you mean 'fifo'"):
        policies.get("fifi")
