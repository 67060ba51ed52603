"""Random jobs, speeds and conditions, and what must be true of every outcome."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import pytest
from hypothesis import strategies as st

from vtrain_sim.decide.fleet import Conditions, Job, Outcome, SpeedTable, Stretch, placement, policies
from vtrain_sim.decide.fleet.breakdowns import Breakdowns
from vtrain_sim.decide.fleet.checkpoints import Checkpoints
from vtrain_sim.decide.fleet.placement.fragments import Fragment

NODE = 4
RACK = 16
TENANTS = ("a", "b", "c")
ALL = tuple(policies.names())
AS_REQUESTED = tuple(name for name in ALL if policies.get(name).as_requested)
DEADLINES_KEPT = ("elasticflow", "elastic-plans")


@st.composite
def tables(draw: st.DrawFn, capacity: int) -> SpeedTable:
    """Any counts; smaller parts of nodes are as fast or slower."""
    counts = tuple(sorted(draw(st.lists(st.integers(1, capacity), min_size=1, max_size=6, unique=True))))
    seconds = tuple(draw(st.floats(0.5, 20)) for _ in counts)
    apart, slower = [], seconds
    for fragment in (Fragment(2), Fragment(1), Fragment(4, True), Fragment(2, True), Fragment(1, True)):
        slower = tuple(s * draw(st.floats(1, 3)) for s in slower)
        apart.append((fragment, slower))
    return SpeedTable(counts, seconds, tuple(apart)).improving()


@st.composite
def fleets(draw: st.DrawFn, most_jobs: int = 20) -> tuple[list[Job], dict[tuple[str, int], SpeedTable], int]:
    """Jobs of three kinds, with and without deadlines, of several tenants; and the GPUs of a cluster."""
    capacity = draw(st.sampled_from([4, 8, 20, 32, 48]))
    kinds = {(model, 1): draw(tables(capacity)) for model in "xyz"}
    gap = draw(st.sampled_from([0.0, 5.0, 60.0]))
    arrival, jobs = draw(st.sampled_from([0.0, 1e6])), []
    for number in range(draw(st.integers(1, most_jobs))):
        arrival += gap * draw(st.floats(0, 2))
        model = draw(st.sampled_from("xyz"))
        table, iterations = kinds[model, 1], draw(st.integers(1, 200))
        room = draw(st.one_of(st.floats(1, 20), st.just(math.inf)))
        jobs.append(
            Job(
                f"j{number}",
                arrival,
                model,
                1,
                iterations,
                draw(st.sampled_from(table.gpus)),
                arrival + iterations * min(table.seconds) * room,
                tenant=draw(st.sampled_from(TENANTS)),
                priority=draw(st.integers(-1, 2)),
            )
        )
    return jobs, kinds, capacity


@st.composite
def restarts(draw: st.DrawFn) -> Checkpoints:
    """Of the same length, or of checkpoints that the nodes of a job write and read, up to 20 s on one."""
    if draw(st.booleans()):
        return Checkpoints(draw(st.sampled_from([0.0, 3.0, 60.0])))
    sizes = {(model, 1): draw(st.floats(0, 2e10)) for model in "xyz"}
    return Checkpoints(None, sizes, 1e9, NODE, draw(st.sampled_from([0.0, 5.0])))


@st.composite
def conditions(draw: st.DrawFn, failing: bool = False) -> Conditions:
    """Gangs on nodes of four GPUs, in racks or not."""
    name = draw(st.sampled_from(placement.names()))
    racks = draw(st.sampled_from([0, RACK]))
    return Conditions(
        draw(restarts()),
        placement.get(name),
        NODE,
        racks,
        draw(st.booleans()) and (racks > 0 or name != "consolidated"),
        breakdowns=Breakdowns(draw(st.sampled_from([2.0, 20.0])), 0.05, draw(st.integers(0, 9))) if failing else None,
    )


def by_job(outcome: Outcome) -> dict[str, list[Stretch]]:
    """The stretches of each job, in order."""
    own = defaultdict(list)
    for stretch in outcome.stretches:
        own[stretch.job_id].append(stretch)
    return own


def check_jobs(jobs: list[Job], outcome: Outcome) -> None:
    """Each job is rejected or trained to its end, on one set of GPUs at a time, and all that failures undid again."""
    own = by_job(outcome)
    assert set(outcome.finished_s) | set(outcome.rejected) == {j.job_id for j in jobs}
    assert not set(outcome.finished_s) & set(outcome.rejected)
    for job in jobs:
        stretches = own[job.job_id]
        if job.job_id in outcome.rejected:
            assert not stretches
            continue
        kept = sum(s.iterations - s.lost for s in stretches)
        assert kept == pytest.approx(job.iterations, rel=1e-6, abs=1e-5)
        assert all(0 <= s.lost <= s.iterations * (1 + 1e-9) for s in stretches)
        assert min(s.start_s for s in stretches) >= job.arrival_s
        assert outcome.finished_s[job.job_id] == pytest.approx(max(s.end_s for s in stretches))
        for one, two in itertools.pairwise(stretches):
            assert one.end_s <= two.start_s


def check_gangs(outcome: Outcome, capacity: int) -> None:
    """All GPUs of a gang or none; no GPU of any node belongs to two jobs at a time, or is none."""
    sizes = [NODE] * (capacity // NODE) + ([capacity % NODE] if capacity % NODE else [])
    used: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for stretch in outcome.stretches:
        assert stretch.gang is not None
        assert stretch.gang.gpus == stretch.gpus
        assert len({node for node, _ in stretch.gang.nodes}) == len(stretch.gang.nodes)
        for node, mask in stretch.gang.nodes:
            assert 0 < mask < 1 << sizes[node]
            for slot in range(NODE):
                if mask >> slot & 1:
                    used[node, slot].append((stretch.start_s, stretch.end_s))
    for spans in used.values():
        for (_, end), (begin, _) in itertools.pairwise(sorted(spans)):
            assert end <= begin


def check_counts(outcome: Outcome, capacity: int) -> None:
    """No more GPUs at any time than there are."""
    for moment in {s.start_s for s in outcome.stretches}:
        assert sum(s.gpus for s in outcome.stretches if s.start_s <= moment < s.end_s) <= capacity
