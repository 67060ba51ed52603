"""Tenants: a quota is its tenant's whenever it wants it, and anybody's when not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.fleet.cases import TENANTS, by_job, check_counts, check_jobs, fleets
from vtrain_sim.decide.fleet import Conditions, Job, SpeedTable, policies, simulate
from vtrain_sim.decide.fleet.checkpoints import Checkpoints
from vtrain_sim.errors import UserError

ONE = {("x", 1): SpeedTable((4, 8), (2.0, 1.0))}
# These decide at once; the slices of another end first. The first blocks those of a tenant after one that waits.
PROMPT = ("fifo", "srtf", "edf", "priority", "tiresias")


def of(quotas: dict[str, int], restart_s: float = 0.0) -> Conditions:
    return Conditions(Checkpoints(restart_s), quotas=quotas)


@settings(max_examples=150, deadline=None)
@given(fleets(), st.sampled_from(PROMPT), st.lists(st.integers(0, 16), min_size=3, max_size=3), st.data())
def test_no_job_waits_for_its_own_quota(fleet, name: str, shares: list[int], data: st.DataObject) -> None:
    """At no time does a job wait that would fit beside the jobs of its tenant into the tenant's quota."""
    jobs, tables, capacity = fleet
    total = max(1, sum(shares))
    quotas = {tenant: share * capacity // total for tenant, share in zip(TENANTS, shares, strict=True)}
    outcome = simulate(jobs, tables, capacity, policies.get(name), conditions=of(quotas, 3.0))
    check_jobs(jobs, outcome)
    check_counts(outcome, capacity)
    own = by_job(outcome)
    whose = {j.job_id: j.tenant for j in jobs}
    wants = {j.job_id: max(g for g in tables[j.model, 1].gpus if g <= j.gpus) for j in jobs}
    for moment in {s.end_s for s in outcome.stretches} | {s.start_s for s in outcome.stretches}:
        held = dict.fromkeys(TENANTS, 0)
        running = {s.job_id for s in outcome.stretches if s.start_s <= moment < s.end_s}
        for stretch in outcome.stretches:
            if stretch.start_s <= moment < stretch.end_s:
                held[whose[stretch.job_id]] += stretch.gpus
        for tenant in TENANTS:
            waiting = [
                job
                for job in sorted(jobs, key=lambda j: (j.arrival_s, j.job_id))
                if job.tenant == tenant and job.arrival_s <= moment < own[job.job_id][-1].start_s
                if job.job_id not in running
            ]
            for job in waiting[:1] if name == "fifo" else waiting:
                assert held[tenant] + wants[job.job_id] > quotas[tenant]


def test_idle_quota_is_borrowed_and_reclaimed_by_hand() -> None:
    jobs = [
        Job("borrows", 0.0, "x", 1, 10, 4, tenant="a"),
        Job("more", 0.0, "x", 1, 10, 4, tenant="a"),
        Job("owner", 4.0, "x", 1, 5, 4, tenant="b"),
    ]
    outcome = simulate(jobs, ONE, 8, policies.get("fifo"), conditions=of({"a": 4, "b": 4}, 1.0))
    # The second job of a has the quota of b until b wants it, then restarts.
    assert outcome.finished_s == pytest.approx({"borrows": 20.0, "more": 14.0 + 1.0 + 16.0, "owner": 14.0})
    rows = {row["tenant"]: row for row in outcome.tenants()}
    assert (rows["a"]["quota"], rows["a"]["jobs"], rows["b"]["mean_jct_s"]) == (4, 2, 10.0)
    assert rows["a"]["borrowed_gpu_hours"] == pytest.approx((4 * 4 + 6 * 4) / 3600)
    assert rows["b"]["borrowed_gpu_hours"] == 0.0


def test_a_tenant_without_quota_only_borrows() -> None:
    jobs = [Job("guest", 0.0, "x", 1, 10, 8, tenant="z"), Job("owner", 2.0, "x", 1, 10, 8, tenant="a")]
    outcome = simulate(jobs, ONE, 8, policies.get("fifo"), conditions=of({"a": 8}))
    assert outcome.finished_s == pytest.approx({"owner": 12.0, "guest": 20.0})
    assert [row["quota"] for row in outcome.tenants()] == [8, 0]


def test_first_in_first_out_blocks_within_a_tenant_only() -> None:
    jobs = [
        Job("a1", 0.0, "x", 1, 10, 4, tenant="a"),
        Job("a2", 1.0, "x", 1, 10, 8, tenant="a"),
        Job("b1", 2.0, "x", 1, 10, 4, tenant="b"),
    ]
    outcome = simulate(jobs, ONE, 8, policies.get("fifo"), conditions=of({"a": 4, "b": 4}))
    # a2 wants all GPUs and waits for both quotas; b1 does not wait for it.
    assert outcome.finished_s == pytest.approx({"a1": 20.0, "b1": 22.0, "a2": 32.0})


def test_quotas_beyond_the_cluster_are_refused() -> None:
    with pytest.raises(UserError, match="--quotas are 12 GPUs together, more than the 8"):
        simulate([Job("x", 0.0, "x", 1, 1, 4)], ONE, 8, policies.get("fifo"), conditions=of({"a": 6, "b": 6}))
