"""Gradients and parameters that data parallel replicas exchange beside the passes of a step.

Megatron-Core's rules (distributed_data_parallel.py, schedules.py): gradients are kept in buckets in reverse order
of the layers; only the first chunk of the first stage has several, since elsewhere pipeline stages wait anyway.
Reductions of a stage follow each other on one stream, each from when its gradients are complete; parameters are
gathered from the beginning of the step on, chunk after chunk, each before the chunk's first forward pass.
Beside passes they are slowed down (`ClusterSpec.overlap_slowdown`); what cannot hide at all
(`overlap_efficiency`) comes after the last pass.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from operator import mul
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.frozen import computed, hashed_once
from vtrain_sim.model.once import by_group, gather, reduction
from vtrain_sim.model.program import Communication
from vtrain_sim.simulate.cost_model import CostModel, TimedProgram
from vtrain_sim.simulate.passes import ChunkTimer, leads, remaining, remaining_at_start
from vtrain_sim.specs.replicas import ReplicaSpec
from vtrain_sim.specs.shard import ChunkSpec

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@hashed_once
@dataclass(frozen=True)
class Parameters:
    """Parameters of the programs of a chunk in forward order: (shared ones, those of experts, programs in a row)."""

    runs: tuple[tuple[int, int, int], ...]

    @computed
    def gradients(self) -> tuple[list[int], list[int]]:
        """Parameters, and those of experts, of the last n + 1 programs: in the order in which gradients complete."""
        back = [run for run in reversed(self.runs) for _ in range(run[2])]
        return list(accumulate(run[0] for run in back)), list(accumulate(run[1] for run in back))

    @property
    def whole(self) -> tuple[int, int]:
        """Of all programs: parameters, and those of experts."""
        dense, expert = self.gradients
        return dense[-1], expert[-1]


class Unrolled:
    """The programs of a chunk one by one, and what buckets need to know of them."""

    def __init__(self, timer: ChunkTimer, chunk: ChunkSpec) -> None:
        self.runs = timer.runs(chunk)
        self.parameters = Parameters(
            tuple((timed.program.parameters, timed.program.expert_parameters, count) for timed, count in self.runs)
        )
        self._times: dict[BucketPlan, BucketTimes] = {}

    @computed
    def programs(self) -> list[TimedProgram]:
        """In forward order."""
        return [program for program, count in self.runs for _ in range(count)]

    def buckets(self, bucket_size: int) -> BucketTimes:
        """Times of the buckets of this size."""
        plan = plan_of(self.parameters, bucket_size)
        times = self._times.get(plan)
        if times is None:
            times = self._times[plan] = BucketTimes(self, plan)
        return times

    @computed
    def complete_s(self) -> Floats:
        """When the gradients of the last n + 1 programs are complete, seconds from the end of the pass that does it."""
        back = self.runs[::-1]
        split = any(timed.weight.steps for timed, _ in back)
        passed = leads([(timed.weight if split else timed.backward, count) for timed, count in back])
        complete_s: Floats = passed - passed[-1]
        return complete_s

    @computed
    def remaining_s(self) -> Floats:
        """Seconds from the start of each program on the compute stream to the end of a forward pass."""
        return remaining([(timed.forward, count) for timed, count in self.runs])

    @computed
    def forward_s(self) -> float:
        """Seconds of a forward pass, from its start on the compute stream."""
        return remaining_at_start([(timed.forward, count) for timed, count in self.runs])


class Bucket(NamedTuple):
    """Programs of a chunk whose parameters are exchanged together.

    first: position of the first one in forward order. parameters, expert_parameters: of all of them.
    """

    first: int
    parameters: int
    expert_parameters: int

    @property
    def size(self) -> tuple[int, int]:
        """Parameters, and those of experts."""
        return self.parameters, self.expert_parameters


def reductions(parameters: int, expert_parameters: int, replicas: ReplicaSpec) -> list[Communication]:
    """Reductions of the gradients of so many parameters, one for each group that has a part of them."""
    groups = by_group(parameters, expert_parameters, replicas)
    return [reduction(group, count, replicas) for group, count in groups]


def gathers(parameters: int, expert_parameters: int, replicas: ReplicaSpec) -> list[Communication]:
    """Gatherings of so many parameters, likewise."""
    groups = by_group(parameters, expert_parameters, replicas)
    return [gather(group, count, replicas) for group, count in groups]


class ExchangeTimes(NamedTuple):
    """Exchanges of one chunk, seconds.

    reduce_s: on the stream, beside passes. reduce_lead_s: from the moment that `gradients_s` names to the end of
    the chunk's reductions, on a free stream. gather_s: on the stream. gather_ready_s: from the begin of the chunk's
    gathers to the earliest end of its first forward pass. unhidden_s: of both, what cannot hide.
    """

    reduce_s: float = 0.0
    reduce_lead_s: float = 0.0
    gather_s: float = 0.0
    gather_ready_s: float = 0.0
    unhidden_s: float = 0.0


def buckets_of(unrolled: Unrolled, bucket_size: int | None) -> list[Bucket]:
    """Buckets of a chunk in the order in which gradients complete. A bucket ends with the layer that fills it.

    bucket_size: parameters of a bucket; None: one for the chunk.
    """
    return _buckets(unrolled.parameters, bucket_size)


def _buckets(parameters: Parameters, bucket_size: int | None) -> list[Bucket]:
    dense, expert = parameters.gradients
    last = len(dense) - 1
    if bucket_size is None:
        return [Bucket(0, dense[last], expert[last])]
    both = [a + b for a, b in zip(dense, expert, strict=True)]
    buckets: list[Bucket] = []
    done_dense = done_expert = 0
    at = -1
    while at < last:
        at = min(last, bisect_left(both, done_dense + done_expert + bucket_size, at + 1))
        buckets.append(Bucket(last - at, dense[at] - done_dense, expert[at] - done_expert))
        done_dense, done_expert = dense[at], expert[at]
    return buckets


@dataclass(frozen=True, eq=False)
class BucketPlan:
    """Buckets in the order in which gradients complete, as columns. Equal ones are one object.

    first: [buckets] see `Bucket`. sizes: the distinct ones; counts: how many buckets have each. last: size of the
    bucket that completes last. following: [sizes, buckets] how many buckets of each size there are from this one on.
    gathered: [sizes, buckets in forward order] how many of each size there are up to this one.
    """

    first: Integers
    sizes: tuple[tuple[int, int], ...]
    counts: tuple[int, ...]
    last: int
    following: Floats
    gathered: Floats


@lru_cache(maxsize=1 << 14)
def plan_of(parameters: Parameters, bucket_size: int) -> BucketPlan:
    """The buckets of some programs."""
    return _plan(tuple(_buckets(parameters, bucket_size)))


@lru_cache(maxsize=1 << 12)
def _plan(buckets: tuple[Bucket, ...]) -> BucketPlan:
    sizes = tuple(dict.fromkeys(bucket.size for bucket in buckets))
    size_of = np.array([sizes.index(bucket.size) for bucket in buckets])
    is_size = (size_of == np.arange(len(sizes))[:, None]).astype(np.float64)
    gathered = np.cumsum(is_size[:, ::-1], axis=1)
    return BucketPlan(
        first=np.array([bucket.first for bucket in buckets]),
        sizes=sizes,
        counts=tuple(np.bincount(size_of).tolist()),
        last=int(size_of[-1]),
        following=gathered[:, ::-1],
        gathered=gathered,
    )


class BucketTimes:
    """When the buckets of a chunk can be reduced and must have been gathered."""

    def __init__(self, unrolled: Unrolled, plan: BucketPlan) -> None:
        self.unrolled = unrolled
        self.plan = plan

    @computed
    def complete_s(self) -> Floats:
        """[buckets] when the gradients of each are complete, seconds from the end of the pass that does it."""
        return self.unrolled.complete_s[len(self.unrolled.complete_s) - 1 - self.plan.first]

    @computed
    def remaining_s(self) -> Floats:
        """[buckets, in forward order] seconds from the start of each bucket's programs to the end of a forward pass."""
        return self.unrolled.remaining_s[self.plan.first[::-1]]


def begins_bucket_by_bucket(replicas: ReplicaSpec, first_stage: bool, interleaved: bool) -> bool:
    """Whether a bucket is reduced as soon as its own gradients are complete; else all of a chunk's together.

    Aligned reductions begin when the schedule says, but on the first stage of a pipeline without interleaving.
    """
    return not replicas.aligned or (first_stage and not interleaved)


class ReplicaTimer:
    """Times what replicas exchange; that does not depend on how a microbatch runs, so that shards share it."""

    def __init__(self, costs: CostModel) -> None:
        self.costs = costs
        self._seconds: dict[ReplicaSpec, dict[tuple[int, int], tuple[float, float]]] = {}

    def seconds(self, replicas: ReplicaSpec, sizes: Sequence[tuple[int, int]]) -> list[tuple[float, float]]:
        """Of the reductions and of the gathers of so many parameters, and so many of experts, undisturbed; 0 for
        those that do not overlap."""
        known = self._seconds.setdefault(replicas, {})
        for size in sizes:
            if size not in known:
                known[size] = self._estimate(replicas, size)
        return [known[size] for size in sizes]

    def _estimate(self, replicas: ReplicaSpec, size: tuple[int, int]) -> tuple[float, float]:
        reduce_s = gather_s = 0.0
        if replicas.overlap_grad_reduce:
            reduce_s = self._sum(reductions(*size, replicas))
        if replicas.overlap_param_gather:
            gather_s = self._sum(gathers(*size, replicas))
        return reduce_s, gather_s

    def _sum(self, communications: list[Communication]) -> float:
        return sum(self.costs.communication(communication).seconds for communication in communications)


class ExchangeTimer:
    """Times the exchanges of the chunks of one shard."""

    def __init__(self, timer: ChunkTimer, replica_timer: ReplicaTimer) -> None:
        self.timer = timer
        self.costs = timer.costs
        self.replica_timer = replica_timer
        self._unrolled: dict[ChunkSpec, Unrolled] = {}

    def unrolled(self, chunk: ChunkSpec) -> Unrolled:
        """The programs of a chunk one by one."""
        unrolled = self._unrolled.get(chunk)
        if unrolled is None:
            unrolled = self._unrolled[chunk] = Unrolled(self.timer, chunk)
        return unrolled

    def times(
        self, chunk: ChunkSpec, replicas: ReplicaSpec, first_stage: bool, first_chunk: bool, interleaved: bool
    ) -> ExchangeTimes:
        """Exchanges of a chunk; where it is decides how many buckets it has. interleaved: its stage has several."""
        unrolled = self.unrolled(chunk)
        if first_stage and first_chunk:
            one_by_one = begins_bucket_by_bucket(replicas, first_stage, interleaved)
            return self._in_buckets(unrolled.buckets(replicas.bucket_size), replicas, one_by_one)
        return self._in_one(unrolled, replicas, first_chunk)

    def _in_buckets(self, buckets: BucketTimes, replicas: ReplicaSpec, one_by_one: bool) -> ExchangeTimes:
        """Exchanges of the first chunk of the first stage. one_by_one: a bucket is reduced when it is complete."""
        plan, hides, slower = buckets.plan, self.costs.cluster.overlap_efficiency, self.costs.cluster.overlap_slowdown
        seconds = self.replica_timer.seconds(replicas, plan.sizes)
        whole_s = sum(count * sum(both) for count, both in zip(plan.counts, seconds, strict=True))
        reduce_s = lead_s = gather_s = ready_s = 0.0
        if replicas.overlap_grad_reduce:
            slowed = [one[0] * hides * slower for one in seconds]
            reduce_s = lead_s = sum(map(mul, plan.counts, slowed))
            if len(plan.first) > 1 and one_by_one:
                # From when a bucket's gradients are complete, it and those after it are still to be reduced.
                still_s = np.dot(slowed, plan.following)
                lead_s = max(0.0, float((buckets.complete_s + still_s).max()))
        if replicas.overlap_param_gather:
            slowed = [one[1] * hides * slower for one in seconds]
            # See `gather_seconds`.
            sooner_s = slowed[plan.last] * (1 - 1 / slower)
            gather_s = sum(map(mul, plan.counts, slowed)) - sooner_s
            ready_s = float((np.dot(slowed, plan.gathered) + buckets.remaining_s).max()) - sooner_s
        return ExchangeTimes(reduce_s, lead_s, gather_s, ready_s, whole_s * (1 - hides))

    def _in_one(self, unrolled: Unrolled, replicas: ReplicaSpec, first_chunk: bool) -> ExchangeTimes:
        """Exchanges of a chunk whose parameters are one bucket."""
        hides, slower = self.costs.cluster.overlap_efficiency, self.costs.cluster.overlap_slowdown
        ((reduce_s, gather_s),) = self.replica_timer.seconds(replicas, (unrolled.parameters.whole,))
        unhidden_s = (reduce_s + gather_s) * (1 - hides)
        reduce_s *= hides * slower
        ready_s = 0.0
        if replicas.overlap_param_gather:
            gather_s *= hides if first_chunk else hides * slower
            ready_s = gather_s + unrolled.forward_s
        return ExchangeTimes(reduce_s, reduce_s, gather_s, ready_s, unhidden_s)


def gather_seconds(costs: CostModel, seconds: Floats, first_chunk: bool) -> Floats:
    """Time of each bucket's gathers in forward order, from what they take by themselves in the order of buckets.

    Nothing can run beside the very first one of a stage.
    """
    hidden = seconds[::-1] * costs.cluster.overlap_efficiency
    slowed: Floats = costs.slowed(1.0) * hidden
    if first_chunk:
        slowed[0] = hidden[0]
    return slowed
