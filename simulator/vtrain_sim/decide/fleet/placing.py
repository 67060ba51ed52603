"""Gangs placed on nodes: what a policy gives, as far as there are nodes for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from vtrain_sim.decide.fleet.conditions import Conditions, lying
from vtrain_sim.decide.fleet.placement import Gang, Nodes
from vtrain_sim.decide.fleet.placement.gangs import CONSOLIDATED
from vtrain_sim.decide.fleet.policies import ClusterPolicy
from vtrain_sim.decide.fleet.running import WORTH, Allocation, Running


class Placer:
    """Takes GPUs of nodes for gangs. stranded_gpu_s, down_gpu_s, migrations: as `Hardware`."""

    def __init__(self, nodes: Nodes, policy: ClusterPolicy, conditions: Conditions) -> None:
        self.nodes, self._conditions = nodes, conditions
        placement = CONSOLIDATED if policy.whole_nodes or conditions.placement is None else conditions.placement
        self._take = placement.place
        self._blocking = policy.blocking
        # A move that nothing was reserved for could break a promise.
        self._migrates = conditions.migrate and not policy.whole_nodes
        self._total = int(nodes.sizes.sum())
        self._stranded = 0
        self.stranded_gpu_s = 0.0
        self.down_gpu_s = 0.0
        self.migrations = 0
        self._outages: list[tuple[int, float, float]] = []
        self._failed_s: dict[int, float] = {}

    def fail(self, node: int, now: float) -> None:
        """A node fails; no job is on it any more."""
        self.nodes.fail(node)
        self._failed_s[node] = now

    def repair(self, node: int, now: float) -> None:
        """A node is back."""
        self.nodes.repair(node)
        self._outages.append((node, self._failed_s.pop(node), now))

    def outages(self, now: float) -> tuple[tuple[int, float, float], ...]:
        """Nodes that were out of service up to now."""
        return (*self._outages, *((node, since, now) for node, since in self._failed_s.items()))

    def place(
        self, running: Mapping[str, Running], given: Allocation
    ) -> tuple[list[Running], list[tuple[Running, int, Gang]]]:
        """The jobs that stop, whose GPUs are given back, and those that go on with other GPUs: how many, and which.

        A gang for which there are no nodes takes those of jobs that come later in the order, or waits. Where one waits,
        a job that would have stopped goes on if nobody has its GPUs: stopping it did not help.
        """
        gives = {r.job.job_id: gpus for r, gpus in given}
        had = {name: r.gang for name, r in running.items() if r.gang and gives.get(name) != r.gpus}
        for gang in had.values():
            self.nodes.release(gang)
        started: list[tuple[Running, int, Gang]] = []
        failed = closed = False
        for position, (r, gpus) in enumerate(given):
            name = r.job.job_id
            if gpus == r.gpus and name not in had:
                continue
            taken = None
            if not closed or r.gpus:
                taken = self._take(self.nodes, gpus) or self._make_room(gpus, given[position + 1 :], had)
            if taken is not None:
                started.append((r, gpus, taken))
                had.pop(name, None)
            else:
                failed = True
                closed = closed or self._blocking
        stopped = []
        for name, old in had.items():
            if failed and self.nodes.are_free(old):
                self.nodes.retake(old)
            else:
                stopped.append(running[name])
        return stopped, started

    def _make_room(self, gpus: int, later: Allocation, had: dict[str, Gang]) -> Gang | None:
        """A gang on the nodes of jobs that come later in the policy's order, from the last on; None where that does not
        help, and for a policy that takes nothing from those that run. Those that lose their GPUs are added to `had`,
        and are placed anew in their turn."""
        if self._blocking:
            return None
        moved: list[tuple[str, Gang]] = []
        taken = None
        for r, same in reversed(later):
            if r.gang is None or same != r.gpus or r.job.job_id in had:
                continue
            self.nodes.release(r.gang)
            moved.append((r.job.job_id, r.gang))
            taken = self._take(self.nodes, gpus)
            if taken is not None:
                break
        for name, gang in moved:
            if self.nodes.are_free(gang):
                self.nodes.retake(gang)
            else:
                had[name] = gang
        return taken

    def pace(self, r: Running, gpus: int, gang: Gang) -> float:
        """Seconds of an iteration of a job on this gang."""
        fragment = lying(gpus, self._conditions.gpus_per_node, gang.chunk, gang.scattered)
        return r.seconds(gpus) if fragment is None else r.table.seconds_on(gpus, fragment)

    def migrations_now(self, running: Iterable[Running], now: float) -> Iterator[tuple[Running, Gang]]:
        """Jobs that train on more nodes than hold them and move to as few, where that saves more than it costs."""
        if not self._migrates:
            return
        for r in list(running):
            gang = r.gang
            if gang is None or not gang.is_apart(r.gpus, self.nodes.size):
                continue
            saved = r.remaining * (r.pace - r.seconds(r.gpus))
            if now <= r.resume_s or saved <= WORTH * self._conditions.checkpoints.pause_s(r.job.kind, r.gpus):
                continue
            self.nodes.release(gang)
            better = CONSOLIDATED.place(self.nodes, r.gpus)
            if better is None or better.scattered:
                if better is not None:
                    self.nodes.release(better)
                self.nodes.retake(gang)
            else:
                self.migrations += 1
                yield r, better

    def on_node(self, running: Iterable[Running], node: int) -> list[Running]:
        """The jobs with GPUs on a node."""
        return [r for r in running if r.gang and any(n == node for n, _ in r.gang.nodes)]

    def count_stranded(self, fewest: int) -> None:
        """From now on: GPUs that are free while the smallest gang that waits does not fit on as few nodes as hold it.

        fewest: GPUs of that gang; 0: none waits.
        """
        self._stranded = int(self.nodes.free.sum()) if fewest and not self.nodes.holds(fewest) else 0

    def pass_time(self, seconds: float) -> None:
        """Count what is so for some seconds."""
        self.stranded_gpu_s += self._stranded * seconds
        self.down_gpu_s += (self._total - self.nodes.working_gpus) * seconds
