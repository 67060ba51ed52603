"""Event-driven simulation of jobs on one cluster."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from vtrain_sim.decide.fleet.breakdowns import Repairs
from vtrain_sim.decide.fleet.checkpoints import Checkpoints
from vtrain_sim.decide.fleet.conditions import Conditions
from vtrain_sim.decide.fleet.elastic import CLOCK
from vtrain_sim.decide.fleet.jobs import Job
from vtrain_sim.decide.fleet.outcome import Hardware, Outcome, Stretch
from vtrain_sim.decide.fleet.placement import Gang, Nodes
from vtrain_sim.decide.fleet.placing import Placer
from vtrain_sim.decide.fleet.policies import ClusterPolicy
from vtrain_sim.decide.fleet.queue import Queue
from vtrain_sim.decide.fleet.requests import granted, usable
from vtrain_sim.decide.fleet.running import Allocation, Running, Site
from vtrain_sim.decide.fleet.speeds import Kind, SpeedTable
from vtrain_sim.errors import UserError
from vtrain_sim.specs.checks import finite, positive

# Iterations left, and seconds left relative to the clock, that are rounding: more than that by which times of steps
# may differ.
_NOTHING = 1e-6
_NO_TIME = 100 * CLOCK


def simulate(
    jobs: Sequence[Job],
    tables: dict[Kind, SpeedTable],
    capacity: int,
    policy: ClusterPolicy,
    restart_s: float = 60.0,
    progress: Callable[[int, int], None] = lambda done, running: None,
    conditions: Conditions | None = None,
) -> Outcome:
    """Run all jobs through a policy.

    restart_s: seconds from a change of a running job's GPUs until it trains again (checkpoint and
    restart), where conditions say nothing of it; nothing that was trained is lost but by failures. Raises `UserError`
    for a job that can never run.
    """
    positive("GPUs of the cluster", capacity)
    finite("--restart-seconds", restart_s)
    conditions = conditions or Conditions(Checkpoints(restart_s))
    conditions.check(capacity)
    nodes = conditions.nodes(capacity)
    whole = nodes is not None and policy.whole_nodes
    site = Site(nodes.whole_gpus if nodes is not None and whole else capacity, restart_s, conditions.quotas)
    arriving = _arriving(jobs, tables, site, policy, conditions, capacity, conditions.unit(capacity) if whole else 1)
    fleet = _Fleet(site, policy, conditions, arriving, nodes)
    arrived = 0
    while arrived < len(arriving) or fleet.active:
        arrival = arriving[arrived].job.arrival_s if arrived < len(arriving) else math.inf
        fleet.advance(arrival)
        while arrived < len(arriving) and arriving[arrived].job.arrival_s <= fleet.now:
            fleet.admit(arriving[arrived])
            arrived += 1
        fleet.allocate()
        progress(len(fleet.finished) + len(fleet.rejected), fleet.active)
    return Outcome(
        tuple(a.job for a in arriving),
        capacity,
        tuple(sorted(fleet.stretches, key=lambda s: (s.start_s, s.job_id))),
        fleet.finished,
        tuple(fleet.rejected),
        fleet.hardware(),
        nodes.size if nodes else 0,
        dict(conditions.quotas),
    )


class _Fleet:
    """The cluster and its jobs at one time: those that run, and those that wait. active: how many both are."""

    def __init__(
        self,
        site: Site,
        policy: ClusterPolicy,
        conditions: Conditions,
        jobs: Sequence[Running],
        nodes: Nodes | None,
    ) -> None:
        self._site, self._policy, self._conditions = site, policy, conditions
        self._scheduler = policy.scheduler(site, jobs)
        self._running: dict[str, Running] = {}
        self._waiting = Queue(self._scheduler.key, site.quotas)
        self._begun: dict[str, float] = {}
        self._wakes_s = math.inf
        self._placer = Placer(nodes, policy, conditions) if nodes is not None else None
        breakdowns = conditions.breakdowns
        self._repairs = Repairs(breakdowns, nodes.sizes) if breakdowns is not None and nodes is not None else None
        self.active = 0
        self.now = 0.0
        self.stretches: list[Stretch] = []
        self.finished: dict[str, float] = {}
        self.rejected: list[str] = []

    def advance(self, arrival: float) -> None:
        """Train up to what happens next, an arrival, an end, what the policy waits for, or a failure; and let go of the
        jobs that end."""
        end = min((_end(r, self.now) for r in self._running.values()), default=math.inf)
        breakdown = self._repairs.next_s if self._repairs else math.inf
        following = min(arrival, end, self._wakes_s, breakdown)
        if math.isinf(following):
            stuck = min((r.job.arrival_s, r.job.job_id) for r in self._waiting)[1]
            raise UserError(f"job {stuck!r} never gets GPUs under this policy: it requests more than are ever free")
        passed = following - self.now
        for r in self._running.values():
            r.remaining = max(0.0, r.remaining - _trained(r, self.now, following))
            r.served += r.gpus * passed
        if self._placer:
            self._placer.pass_time(passed)
        self.now = following
        for r in [r for r in self._running.values() if r.resume_s <= self.now and _is_done(r, self.now)]:
            self._end_stretch(r)
            self.finished[r.job.job_id] = self.now
            self._give_back(r)
            self._leave(r)
            self.active -= 1
        if breakdown <= self.now:
            self._break_down()

    def admit(self, job: Running) -> None:
        """A job arrives."""
        job.last_s = self.now
        if self._scheduler.admit(self._running, self._waiting, job, self.now):
            self._waiting.add(job)
            self.active += 1
        else:
            self.rejected.append(job.job.job_id)

    def allocate(self) -> None:
        """Give each job the GPUs that the policy says."""
        given = self._scheduler.allocate(self._running, self._waiting, self.now)
        if self._placer:
            self._place(self._placer, given)
        else:
            keep = {r.job.job_id for r, _ in given}
            for r in [r for name, r in self._running.items() if name not in keep]:
                self._stop(r)
            for r, gpus in given:
                if gpus != r.gpus:
                    self._change(r, gpus, None)
        self._wakes_s = self._scheduler.wakes(self._running, self._waiting, self.now)

    def hardware(self) -> Hardware | None:
        """What the nodes did; None where gangs are only counted."""
        if self._placer is None:
            return None
        placer, outages = self._placer, self._placer.outages(self.now)
        return Hardware(placer.stranded_gpu_s, placer.down_gpu_s, len(outages), placer.migrations, outages)

    def _place(self, placer: Placer, given: Allocation) -> None:
        stopped, started = placer.place(self._running, given)
        for r in stopped:
            self._stop(r)
        for r, gpus, gang in started:
            self._change(r, gpus, gang)
        for r, gang in placer.migrations_now(self._running.values(), self.now):
            self._change(r, r.gpus, gang)
        placer.count_stranded(self._waiting.fewest())

    def _break_down(self) -> None:
        """A node fails, with all jobs on it, or is back."""
        repairs, placer = self._repairs, self._placer
        assert repairs is not None
        assert placer is not None
        failed = False
        while repairs.next_s <= self.now:
            node, fails = repairs.happen()
            failed = failed or fails
            if fails:
                for r in placer.on_node(self._running.values(), node):
                    self._fail(r)
                placer.fail(node, self.now)
            else:
                placer.repair(node, self.now)
        whole = self._policy.whole_nodes
        self._site.capacity = placer.nodes.whole_gpus if whole else placer.nodes.working_gpus
        self._scheduler.changed(self._running, self._waiting, self.now, failed)

    def _fail(self, r: Running) -> None:
        """A job loses its GPUs, and what it trained since its last checkpoint."""
        interval, write = self._conditions.interval_s(r.job.kind, r.gpus)
        trained = max(0.0, self.now - max(self._begun[r.job.job_id], r.resume_s))
        lost = trained % (interval + write) / r.pace
        self._end_stretch(r, lost)
        r.remaining += lost
        r.failed = True
        self._give_back(r)
        self._leave(r)
        self._waiting.add(r)

    def _stop(self, r: Running) -> None:
        """A job is suspended, with a checkpoint; its GPUs are given back already."""
        self._end_stretch(r)
        self._leave(r)
        self._waiting.add(r)

    def _give_back(self, r: Running) -> None:
        if self._placer and r.gang:
            self._placer.nodes.release(r.gang)

    def _leave(self, r: Running) -> None:
        r.gpus, r.gang, r.last_s = 0, None, self.now
        del self._running[r.job.job_id]

    def _change(self, r: Running, gpus: int, gang: Gang | None) -> None:
        """A job goes on with these GPUs. The gang is taken already, and the one that it had given back."""
        if r.gpus:
            self._end_stretch(r)
        else:
            self._waiting.remove(r)
            self._running[r.job.job_id] = r
        pause = 0.0
        if r.started:
            costs = self._conditions.checkpoints
            pause = costs.recovery_s(r.job.kind, gpus) if r.failed else costs.pause_s(r.job.kind, gpus)
            r.restarts += 1
        r.resume_s = self.now + pause
        r.started, r.failed = True, False
        r.gpus, r.gang = gpus, gang
        r.pace = self._placer.pace(r, gpus, gang) if self._placer and gang else r.seconds(gpus)
        self._begun[r.job.job_id] = self.now

    def _end_stretch(self, r: Running, lost: float = 0.0) -> None:
        start = self._begun[r.job.job_id]
        resume = min(max(start, r.resume_s), self.now)
        if self.now > start:
            iterations = (self.now - resume) / r.pace
            self.stretches.append(Stretch(r.job.job_id, r.gpus, start, resume, self.now, iterations, lost, r.gang))


def _arriving(
    jobs: Sequence[Job],
    tables: Mapping[Kind, SpeedTable],
    site: Site,
    policy: ClusterPolicy,
    conditions: Conditions,
    capacity: int,
    unit: int,
) -> list[Running]:
    """The jobs, by arrival. capacity: GPUs of the cluster; unit: GPUs are given in multiples of it."""
    usable_of: dict[tuple[Kind, int, int], tuple[SpeedTable, int, dict[int, float]]] = {}
    arriving = []
    for job in sorted(jobs, key=lambda j: (j.arrival_s, j.job_id)):
        kind = job.kind
        like = kind, job.min_gpus, job.max_gpus
        if like not in usable_of:
            table = conditions.slowed(kind, usable(job, tables[kind], site.capacity), capacity)
            index = dict(zip(table.gpus, table.seconds, strict=True))
            if unit > 1:
                table = conditions.promised(table, unit, site.capacity)
            pauses = tuple(conditions.checkpoints.pause_s(kind, gpus) for gpus in table.gpus)
            usable_of[like] = table, site.place(table, pauses, unit), index
        table, place, index = usable_of[like]
        requested = granted(job, table) if policy.as_requested else -(-table.gpus[0] // unit) * unit
        arriving.append(Running(job, table, float(job.iterations), requested, place, index=index))
    return arriving


def _trained(r: Running, since: float, until: float) -> float:
    return max(0.0, until - max(since, r.resume_s)) / r.pace


def _is_done(r: Running, now: float) -> bool:
    """Whether nothing is left, or less than what moves the clock, which would stand still for ever."""
    return r.remaining <= _NOTHING or _end(r, now) <= now + _NO_TIME * (1 + now)


def _end(r: Running, now: float) -> float:
    return max(now, r.resume_s) + r.remaining * r.pace
