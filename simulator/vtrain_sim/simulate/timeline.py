"""The operator-by-operator timeline of a step: the reference that the batch evaluation equals.

Each pass is issued operator by operator on the streams of its device, instructions are replayed stage by stage,
every bucket of gradients and parameters is an exchange of its own. Nothing is collapsed, so that a timeline
costs as much as a step has operators; spans are kept for the stages and microbatches that are wanted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from vtrain_sim.model import Communication, Stream
from vtrain_sim.model.step import boundary_bytes
from vtrain_sim.schedules import Pass, PassTimes, PipelineShape, Replay
from vtrain_sim.schedules.messages import boundary
from vtrain_sim.schedules.passes import BACKWARD, FORWARD, FULL_BACKWARD, WEIGHT, Message, produces_gradients
from vtrain_sim.schedules.replay import replay_instructions
from vtrain_sim.simulate.batch import Evaluator, slowest_of
from vtrain_sim.simulate.breakdown import STRAGGLERS
from vtrain_sim.simulate.cost_model import CostModel
from vtrain_sim.simulate.held import held_by_stages
from vtrain_sim.simulate.layout import Layout, Layouts
from vtrain_sim.simulate.part_names import part_names
from vtrain_sim.simulate.recording import Recording
from vtrain_sim.simulate.replicas import (
    Bucket,
    begins_bucket_by_bucket,
    buckets_of,
    gather_seconds,
    gathers,
    reductions,
)
from vtrain_sim.simulate.spans import Timeline
from vtrain_sim.simulate.streams import STREAMS, Step, spans_of
from vtrain_sim.specs import Configuration


def timeline(
    evaluator: Evaluator,
    configuration: Configuration,
    stages: Collection[int] | None = None,
    microbatches: Collection[int] | None = None,
    detail: str = "operators",
) -> Timeline:
    """The timeline of a configuration; raises `UserError` where a cost is not known.

    stages, microbatches: those whose spans are kept; None: all. detail: one of `DETAILS`; whatever it is, transfers
    between stages and what is done once per step are kept too.
    """
    layouts, layout = evaluator.layouts(configuration), evaluator.layout(configuration)
    begin_s = max(layouts.once(h, configuration.replicas).seconds[0] for h in layout.holdings)
    recording = Recording(begin_s, stages, microbatches, detail)
    run = _Run(layouts, layout, configuration, recording)
    replay = run.replay()
    ends = [_Ending(run, replay, stage) for stage in range(layout.placement.stages)]
    # Stages that do not wait for each other before the optimizer step are one behind the other all the time.
    behind = [run.arrival_s(end.stage) if layout.schedule.overlaps_optimizer else 0.0 for end in ends]
    synced_s = max(end.synced_s - behind_s for end, behind_s in zip(ends, behind, strict=True))
    whole = begin_s + synced_s + max(end.update_s for end in ends)
    slowest = whole * float(slowest_of(np.array([configuration.parallel.world_size]), evaluator.cluster)[0])
    for end, behind_s in zip(ends, behind, strict=True):
        end.add_once(begin_s, begin_s + synced_s + behind_s)
        recording.work(end.stage, Stream.COMPUTE, STRAGGLERS, whole + behind_s, slowest + behind_s)
    recording.transfers(replay.transfers, layout.placement, run.sent)
    spans = sorted(recording.spans, key=lambda span: (span.stage, span.start_s))
    exposed = tuple(end.exposed_s for end in ends)
    held = held_by_stages(evaluator, configuration, layout, replay.spans, begin_s)
    kept = tuple(moment for moment in held if recording.wants(moment.stage))
    return Timeline(configuration, slowest, begin_s, replay.end_s, exposed, tuple(spans), kept, detail)


class _Run:
    """The passes of all stages."""

    def __init__(self, layouts: Layouts, layout: Layout, configuration: Configuration, recording: Recording) -> None:
        self.layouts, self.layout, self.configuration = layouts, layout, configuration
        self.costs: CostModel = layouts.costs
        self.recording = recording
        placement, replicas = layout.placement, configuration.replicas
        contents = [layout.contents.of_place(place) for place in range(len(placement.virtual_stage))]
        self.replicas = replicas
        unrolled = [layouts.exchanges.unrolled(chunk) for chunk in contents]
        self.sequences = [one.programs for one in unrolled]
        self.names = part_names(layout.contents, self.sequences)
        self.buckets = [
            buckets_of(one, replicas.bucket_size if place == 0 else None) for place, one in enumerate(unrolled)
        ]
        self.gathered = [self._gather(stage) for stage in range(placement.stages)]
        self.started: set[int] = set()
        # For each place, when the compute stream passed each program in the pass that completes its gradients.
        self.complete: dict[int, list[float]] = {}

    def replay(self) -> Replay:
        """Run all instructions."""
        layout, schedule, places = self.layout, self.layout.schedule, self.layout.places
        stages = layout.placement.stages
        chunks = layout.placement.chunks // schedule.parameter_copies
        shape = PipelineShape(stages, chunks, self.configuration.num_microbatches)
        columns = [places[name].tolist() for name in ("forward_s", "backward_s", "weight_s", "transfer_s", "ready_s")]
        shape_of_places = PipelineShape(stages, layout.placement.chunks, shape.microbatches)
        forward_s, backward_s, weight_s, transfer_s, ready_s = columns
        times = PassTimes.single(
            shape_of_places,
            forward_s,
            backward_s,
            weight_s,
            transfer_s,
            ready_s,
            overlapped=self.configuration.parallel.overlap_p2p,
            aligned=self.aligned,
        )
        self.orders = schedule.order(shape, times)
        self.after = [
            schedule.reduction_passes(shape, stage, order, self.aligned) for stage, order in enumerate(self.orders)
        ]
        overlapped = bool(times.overlapped[0]) or not schedule.waits_for_sends
        return replay_instructions(
            schedule.instructions(shape, times), layout.placement, times, overlapped, self._pass_end
        )

    @property
    def aligned(self) -> bool:
        """Whether stages begin to reduce at the same time."""
        return self.configuration.replicas.overlap_grad_reduce and self.configuration.replicas.aligned

    def arrival_s(self, stage: int) -> float:
        """When the first microbatch reaches a stage on its way down."""
        places = self.layout.places
        return float(sum(places["forward_s"][:stage]) + sum(places["transfer_s"][:stage]))

    def sent(self, message: Message) -> Communication:
        """What one rank sends with a message."""
        placement, pipeline = self.layout.placement, self.configuration.pipeline
        place = boundary(placement, message)
        groups, which = self.costs.boundaries(placement, pipeline.stage_ranks)
        shard = self.configuration.shard
        nbytes = boundary_bytes(shard, self.layouts.parts, pipeline.scatter_gather)
        return Communication("transfer", "p2p", groups[int(which[place]) - 1], nbytes)

    def _gather(self, stage: int) -> dict[int, list[float]]:
        """When each bucket of each chunk (in forward order) has been gathered, from the begin of the passes."""
        ends: dict[int, list[float]] = {}
        at = 0.0
        for place in range(stage, len(self.buckets), self.layout.placement.stages):
            if not self.configuration.replicas.overlap_param_gather:
                continue
            first_chunk, buckets = place < self.layout.placement.stages, self.buckets[place]
            sizes = [bucket.size for bucket in buckets]
            alone = [both[1] for both in self.layouts.exchanges.replica_timer.seconds(self.replicas, sizes)]
            seconds = gather_seconds(self.costs, np.array(alone), first_chunk).tolist()
            ends[place] = []
            for bucket, gather_s in zip(reversed(buckets), seconds, strict=True):
                self.recording.exchange(stage, gathers(*bucket.size, self.replicas), at, at + gather_s)
                at += gather_s
                ends[place].append(at)
        return ends

    def unhidden_gathers_s(self, stage: int) -> float:
        """Seconds of a stage's gathers that cannot run beside passes."""
        if not self.replicas.overlap_param_gather:
            return 0.0
        timer = self.layouts.exchanges.replica_timer
        places = range(stage, len(self.buckets), self.layout.placement.stages)
        sizes = [bucket.size for place in places for bucket in self.buckets[place]]
        whole = sum(both[1] for both in timer.seconds(self.replicas, sizes))
        return whole * (1 - self.costs.cluster.overlap_efficiency)

    def _pass_end(self, stage: int, one: Pass, begin: float) -> float:
        place = self.layout.placement.place(one.chunk, stage)
        clocks = [begin] * STREAMS
        sequence = self.sequences[place]
        names = self.names[place]
        if one.kind == FORWARD:
            gathers = {} if place in self.started else self._waits(stage, place)
            self.started.add(place)
            for position, program in enumerate(sequence):
                clocks[Stream.COMPUTE] = max(clocks[Stream.COMPUTE], gathers.get(position, 0.0))
                self._issue(stage, one, names[position], program.forward.steps, clocks)
            return self._finish(stage, one, begin, max(clocks))
        back, names = sequence[::-1], names[::-1]
        if one.kind in (BACKWARD, FULL_BACKWARD):
            passed = self._issue_all(stage, one, names, [p.backward.steps for p in back], clocks)
        if one.kind in (WEIGHT, FULL_BACKWARD):
            clocks = [max(clocks)] * STREAMS
            passed = self._issue_all(stage, one, names, [p.weight.steps for p in back], clocks)
        if produces_gradients(one.kind, self.layout.schedule.splits_backward):
            self.complete[place] = passed
        return self._finish(stage, one, begin, max(clocks))

    def _waits(self, stage: int, place: int) -> dict[int, float]:
        """By position of a program in its chunk, when its parameters have been gathered."""
        ends = self.gathered[stage].get(place, [])
        return {bucket.first: end for bucket, end in zip(reversed(self.buckets[place]), ends, strict=bool(ends))}

    def _issue_all(
        self, stage: int, one: Pass, names: Sequence[str], programs: Sequence[Sequence[Step]], clocks: list[float]
    ) -> list[float]:
        passed = []
        for name, steps in zip(names, programs, strict=True):
            self._issue(stage, one, name, steps, clocks)
            passed.append(clocks[Stream.COMPUTE])
        return passed

    def _issue(self, stage: int, one: Pass, name: str, steps: Sequence[Step], clocks: list[float]) -> None:
        start = clocks[Stream.COMPUTE]
        self.recording.operators(stage, one, spans_of(steps, clocks))
        self.recording.part(stage, one, name, start, clocks[Stream.COMPUTE])

    def _finish(self, stage: int, one: Pass, begin: float, end: float) -> float:
        self.recording.one_pass(stage, one, begin, end)
        return end


class _Ending:
    """What a stage does after its last pass. Times are from the begin of the passes."""

    def __init__(self, run: _Run, replay: Replay, stage: int) -> None:
        self.run, self.stage = run, stage
        self.end_s = replay.end_s[stage]
        holding = run.layout.holding(stage)
        self.once = run.layouts.once(holding, run.configuration.replicas)
        self.update_s = self.once.seconds[2]
        self.exposed_s = self._reduce(replay) if run.configuration.replicas.overlap_grad_reduce else 0.0
        self.synced_s = self.end_s + self.exposed_s + self.once.seconds[1]

    def _reduce(self, replay: Replay) -> float:
        """Reduce every bucket; seconds by which that ends after the stage's last pass."""
        run, placement = self.run, self.run.layout.placement
        costs, cluster = run.costs, run.costs.cluster
        pass_ends = [span.end_s for span in replay.spans if span.stage == self.stage] + [self.end_s]
        places = range(self.stage, len(run.buckets), placement.stages)
        begins = {place: pass_ends[run.after[self.stage][place // placement.stages]] for place in places}
        free = max((ends[-1] for ends in run.gathered[self.stage].values()), default=0.0)
        unhidden = run.unhidden_gathers_s(self.stage)
        for place in sorted(places, key=lambda place: begins[place]):
            for bucket in run.buckets[place]:
                seconds = sum(costs.communication(c).seconds for c in reductions(*bucket.size, run.replicas))
                unhidden += seconds * (1 - cluster.overlap_efficiency)
                start = max(free, self._ready(place, bucket, begins[place]))
                free = self._served(start, seconds * cluster.overlap_efficiency)
                run.recording.exchange(self.stage, reductions(*bucket.size, run.replicas), start, free)
        after_s = max(free, self.end_s)
        run.recording.unhidden(self.stage, after_s, after_s + unhidden)
        return after_s - self.end_s + unhidden

    def _ready(self, place: int, bucket: Bucket, begin: float) -> float:
        run = self.run
        interleaved = run.layout.placement.chunks > 1
        if len(run.buckets[place]) > 1 and begins_bucket_by_bucket(
            run.configuration.replicas, self.stage == 0, interleaved
        ):
            return run.complete[place][len(run.sequences[place]) - 1 - bucket.first]
        return begin

    def _served(self, start: float, seconds: float) -> float:
        """End of a communication: slowed down while the stage's passes run, at full speed afterwards."""
        slowdown = self.run.costs.cluster.overlap_slowdown
        if start >= self.end_s:
            return start + seconds
        slow = start + seconds * slowdown
        return slow if slow <= self.end_s else self.end_s + (slow - self.end_s) / slowdown

    def add_once(self, begin_s: float, barrier_s: float) -> None:
        """Keep the spans of what is done once per step; barrier_s: when all stages have their gradients."""
        synced_s = begin_s + self.synced_s - self.once.seconds[1]
        for work, start in ((self.once.before, 0.0), (self.once.sync, synced_s), (self.once.update, barrier_s)):
            self.run.recording.once(self.stage, work, start)
