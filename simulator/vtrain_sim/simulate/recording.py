"""The spans of a timeline that are wanted, as they come about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

from vtrain_sim.model import Communication, Compute, Stream
from vtrain_sim.schedules import Pass, Placement, TransferSpan
from vtrain_sim.schedules.passes import BACKWARD, FORWARD, FULL_BACKWARD, WEIGHT, Message
from vtrain_sim.simulate.cost_model import Work
from vtrain_sim.simulate.spans import DETAILS, LAYERS, PASSES, SENDS, TimelineSpan
from vtrain_sim.simulate.streams import Span

_PASS_NAMES = {FORWARD: "forward", BACKWARD: "backward", WEIGHT: "weight gradients", FULL_BACKWARD: "full backward"}
# What of the replicas' exchange nothing can run beside (`ClusterSpec.overlap_efficiency`).
UNHIDDEN = "exchange that cannot overlap"


@dataclass
class Recording:
    """Keeps spans. begin_s: when the passes begin; what happens in them is told from there, all else from the
    beginning of the step. stages, microbatches, detail: see `timeline`."""

    begin_s: float
    stages: Collection[int] | None
    microbatches: Collection[int] | None
    detail: str
    spans: list[TimelineSpan] = field(default_factory=list)

    def wants(self, stage: int, microbatch: int | None = None) -> bool:
        """Whether spans of a stage, and of a microbatch on it, are kept."""
        return (self.stages is None or stage in self.stages) and (
            microbatch is None or self.microbatches is None or microbatch in self.microbatches
        )

    def keeps(self, detail: str) -> bool:
        """Whether spans of this detail are kept."""
        return DETAILS.index(detail) <= DETAILS.index(self.detail)

    def one_pass(self, stage: int, one: Pass, start: float, end: float) -> None:
        """A whole pass."""
        if self.wants(stage, one.microbatch):
            begin, name = self.begin_s, _PASS_NAMES[one.kind]
            self.spans.append(TimelineSpan(stage, PASSES, name, begin + start, begin + end, one.chunk, one.microbatch))

    def part(self, stage: int, one: Pass, name: str, start: float, end: float) -> None:
        """A part of the model in a pass: a layer, the embedding, the head."""
        if self.keeps("layers") and end > start and self.wants(stage, one.microbatch):
            begin = self.begin_s
            self.spans.append(TimelineSpan(stage, LAYERS, name, begin + start, begin + end, one.chunk, one.microbatch))

    def operators(self, stage: int, one: Pass, spans: Sequence[Span]) -> None:
        """The operators and the communication of a part of a pass."""
        if not (self.keeps("operators") and self.wants(stage, one.microbatch)):
            return
        for span in spans:
            step, item = span.step, span.step.item
            if not isinstance(item, Compute | Communication):
                continue
            times = [(_track(step.stream), span.start, span.end)]
            if step.host_s > 0:
                times.append((_track(Stream.HOST), span.launched, span.launched + step.host_s))
            for track, start, end in times:
                if end > start:
                    of_pass = (self.begin_s + start, self.begin_s + end, one.chunk, one.microbatch)
                    self.spans.append(TimelineSpan(stage, track, item.name, *of_pass, item, step.estimate))

    def transfers(
        self, transfers: Iterable[TransferSpan], placement: Placement, sent: Callable[[Message], Communication]
    ) -> None:
        """What stages send and receive. Transfers from or to a stage that run at the same time have a track each.
        sent: what a message is as a transfer of one rank."""
        free: dict[tuple[str, int, int], float] = defaultdict(float)
        for number, (stage, message, start, end) in enumerate(sorted(transfers, key=lambda span: span.start_s)):
            item = sent(message)
            down = message.direction == FORWARD
            neighbours = placement.next_place if down else placement.previous_place
            chunk = placement.chunk_of(neighbours[placement.place(message.chunk, message.stage)])
            what = "activations" if down else "gradients"
            for track, name, where, of_chunk in (
                (SENDS, f"send {what}", message.stage, message.chunk),
                (_track(Stream.PP), f"receive {what}", stage, chunk),
            ):
                lane = next(n for n in count() if free[track, where, n] <= start)
                free[track, where, lane] = end
                if self.wants(where, message.microbatch):
                    lane_track = f"{track} {lane + 1}" if lane else track
                    of_pass = (self.begin_s + start, self.begin_s + end, of_chunk, message.microbatch, item)
                    self.spans.append(TimelineSpan(where, lane_track, name, *of_pass, transfer=number))

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
