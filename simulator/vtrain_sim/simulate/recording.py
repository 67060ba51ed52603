"""The spans of a timeline that are wanted, as they come about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

from vtrain_sim.model import Communication, Compute, Stream
from vtrain_sim.schedules import Pass, Placement, TransferSpan
from vtrain_sim.schedules.passes import BACKWARD, FORWARD, FULL_BACKWARD, WEIGHT
from vtrain_sim.simulate.cost_model import Work
from vtrain_sim.simulate.spans import PASSES, TimelineSpan
from vtrain_sim.simulate.streams import Span

_PASS_NAMES = {FORWARD: "forward", BACKWARD: "backward", WEIGHT: "weight gradients", FULL_BACKWARD: "full backward"}
# What of the replicas' exchange nothing can run beside (`ClusterSpec.overlap_efficiency`).
UNHIDDEN = "exchange that cannot overlap"


@dataclass
class Recording:
    """Keeps spans. begin_s: when the passes begin; what happens in them is told from there, all else from the
    beginning of the step. stages, microbatches, operators: see `timeline`."""

    begin_s: float
    stages: Collection[int] | None
    microbatches: Collection[int] | None
    keeps_operators: bool
    spans: list[TimelineSpan] = field(default_factory=list)

    def wants(self, stage: int, microbatch: int | None = None) -> bool:
        """Whether spans of a stage, and of a microbatch on it, are kept."""
        return (self.stages is None or stage in self.stages) and (
            microbatch is None or self.microbatches is None or microbatch in self.microbatches
        )

    def one_pass(self, stage: int, one: Pass, start: float, end: float) -> None:
        """A whole pass."""
        if self.wants(stage, one.microbatch):
            begin, name = self.begin_s, _PASS_NAMES[one.kind]
            self.spans.append(TimelineSpan(stage, PASSES, name, begin + start, begin + end, one.chunk, one.microbatch))

    def operators(self, stage: int, one: Pass, spans: Sequence[Span]) -> None:
        """The operators and the communication of a part of a pass."""
        if not (self.keeps_operators and self.wants(stage, one.microbatch)):
            return
        for span in spans:
            item = span.step.item
            if isinstance(item, Compute | Communication) and span.end > span.start:
                self.spans.append(
                    TimelineSpan(
                        stage,
                        _track(span.step.stream),
                        item.name,
                        self.begin_s + span.start,
                        self.begin_s + span.end,
                        one.chunk,
                        one.microbatch,
                        item,
                        span.step.estimate,
                    )
                )

    def transfers(self, transfers: Iterable[TransferSpan], placement: Placement) -> None:
        """What stages receive, in the order of time. Transfers to a stage that run at the same time have a track
        each."""
        free: dict[tuple[int, int], float] = defaultdict(float)
        for stage, message, start, end in transfers:
            lane = next(number for number in count() if free[stage, number] <= start)
            free[stage, lane] = end
            if not self.wants(stage, message.microbatch):
                continue
            track = _track(Stream.PP) + (f" {lane + 1}" if lane else "")
            down = message.direction == FORWARD
            name = "receive activations" if down else "receive gradients"
            neighbours = placement.next_place if down else placement.previous_place
            chunk = placement.chunk_of(neighbours[placement.place(message.chunk, message.stage)])
            begin = self.begin_s
            self.spans.append(TimelineSpan(stage, track, name, begin + start, begin + end, chunk, message.microbatch))

    def exchange(self, stage: int, communications: Sequence[Communication], start: float, end: float) -> None:
        """An exchange between replicas beside passes; several groups may have a part in it."""
        if communications and end > start and self.wants(stage):
            first, begin = communications[0], self.begin_s
            self.spans.append(
                TimelineSpan(stage, _track(first.stream), first.name, begin + start, begin + end, item=first)
            )

    def unhidden(self, stage: int, start: float, end: float) -> None:
        """What cannot run beside passes of the exchanges between replicas."""
        self.work(stage, Stream.DP, UNHIDDEN, self.begin_s + start, self.begin_s + end)

    def once(self, stage: int, work: Work, start: float) -> None:
        """What is done once per step, one after the other, from a time on."""
        if not self.wants(stage):
            return
        at = start
        for item, estimate in work:
            stream = item.stream if isinstance(item, Communication) else Stream.COMPUTE
            end = at + estimate.seconds
            self.spans.append(TimelineSpan(stage, _track(stream), item.name, at, end, item=item, estimate=estimate))
            at = end

    def work(self, stage: int, stream: Stream, name: str, start: float, end: float) -> None:
        """Something that is neither an operator nor one communication."""
        if end > start and self.wants(stage):
            self.spans.append(TimelineSpan(stage, _track(stream), name, start, end))


def _track(stream: Stream) -> str:
    return stream.name.lower()
