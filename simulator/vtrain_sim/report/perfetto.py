"""Timelines as Chrome trace events, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

One process per stage, one thread per stream and one for whole passes; arrows follow a microbatch over the stages; a
counter shows the microbatches whose activations a stage holds. Times are microseconds.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator

from vtrain_sim import schedules
from vtrain_sim.errors import UserError
from vtrain_sim.results import Result
from vtrain_sim.simulate.spans import PASSES, Timeline, TimelineSpan

Event = dict[str, object]
_MICRO = 1e6
_FORWARD = "forward"


class PerfettoRenderer:
    """A timeline as a JSON trace."""

    name = "perfetto"

    def render(self, result: Result) -> str:
        """The trace. Raises `UserError` for a result that is no timeline."""
        if not isinstance(result, Timeline):
            raise UserError(f"a {type(result).__name__} has no timeline to draw: vtrain-sim timeline makes one")
        tracks = {track: number for number, track in enumerate(_tracks(result.spans))}
        events = [*_names(result.spans, tracks), *(_slice(span, tracks) for span in result.spans)]
        passes = [span for span in result.spans if span.track == PASSES]
        events += [*_flows(result, passes, tracks), *_in_flight(result, passes)]
        return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, allow_nan=False) + "\n"


def _tracks(spans: Iterable[TimelineSpan]) -> list[str]:
    """Passes first, then streams as they first appear."""
    return list(dict.fromkeys((PASSES, *(span.track for span in spans))))


def _names(spans: Iterable[TimelineSpan], tracks: dict[str, int]) -> Iterator[Event]:
    for stage in sorted({span.stage for span in spans}):
        yield {"ph": "M", "name": "process_name", "pid": stage, "args": {"name": f"stage {stage}"}}
        yield {"ph": "M", "name": "process_sort_index", "pid": stage, "args": {"sort_index": stage}}
        for track, number in tracks.items():
            yield {"ph": "M", "name": "thread_name", "pid": stage, "tid": number, "args": {"name": track}}


def _slice(span: TimelineSpan, tracks: dict[str, int]) -> Event:
    place = {"chunk": span.chunk, "microbatch": span.microbatch}
    arguments = {**{name: value for name, value in place.items() if value is not None}, **span.details()}
    name = f"{span.name} {span.microbatch}" if span.track == PASSES else span.name
    return {
        "ph": "X",
        "name": name,
        "cat": span.track,
        "pid": span.stage,
        "tid": tracks[span.track],
        "ts": span.start_s * _MICRO,
        "dur": (span.end_s - span.start_s) * _MICRO,
        "args": arguments,
    }


def _flows(timeline: Timeline, passes: list[TimelineSpan], tracks: dict[str, int]) -> Iterator[Event]:
    """An arrow from each forward pass to the one that needs what it sends."""
    c = timeline.configuration
    placement = schedules.get(c.schedule).placement(c.parallel.pp, c.parallel.vpp)
    begun = {(s.stage, s.chunk, s.microbatch): s for s in passes if s.name == _FORWARD}
    for number, ((stage, chunk, microbatch), source) in enumerate(begun.items()):
        target_place = placement.next_place[placement.place(chunk or 0, stage)]
        if target_place < 0 or placement.stage_of(target_place) == stage:
            continue
        key = (placement.stage_of(target_place), placement.chunk_of(target_place), microbatch)
        target = begun.get(key)
        if target is None:
            continue
        for phase, span, at in (("s", source, source.end_s), ("f", target, target.start_s)):
            yield {
                "ph": phase,
                "bp": "e",
                "name": "activations",
                "cat": "pp",
                "id": number,
                "pid": span.stage,
                "tid": tracks[PASSES],
                "ts": at * _MICRO,
            }


def _in_flight(timeline: Timeline, passes: list[TimelineSpan]) -> Iterator[Event]:
    """Counter of the microbatches (of one chunk each) whose activations a stage holds."""
    splits = schedules.get(timeline.configuration.schedule).splits_backward
    frees = ("weight gradients", "full backward") if splits else ("backward",)
    changes: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for span in passes:
        if span.name == _FORWARD:
            changes[span.stage].append((span.start_s, 1))
        elif span.name in frees:
            changes[span.stage].append((span.end_s, -1))
    for stage, steps in changes.items():
        count = 0
        for at, change in sorted(steps):
            count += change
            arguments = {"microbatches": count}
            yield {"ph": "C", "name": "in flight", "pid": stage, "ts": at * _MICRO, "args": arguments}
