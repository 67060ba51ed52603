"""A simulated step as a trace: one process for each stage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from vtrain_sim.model import Communication
from vtrain_sim.progress import Progress, unwatched
from vtrain_sim.report.trace.parts import IN_FLIGHT, MEMORY, Flow, Moment, Process, Slice, Trace, nanoseconds
from vtrain_sim.simulate import spans
from vtrain_sim.simulate.spans import Timeline, TimelineSpan

# Passes as the plugin calls them.
_PASSES = {"forward": "forward_step", "backward": "backward_step", "full backward": "backward_step"}
_ENDS = {"send": "send", "receive": "recv"}
_GIB = 2**30
# Slices from one report of progress to the next.
_REPORTED = 4096


def simulated_trace(timeline: Timeline, progress: Progress = unwatched) -> Trace:
    """The trace of a timeline; what is called as in a captured run has the name that it has there.

    progress: is told the slices that are made, and how many there are.
    """
    by_stage: dict[int, dict[str, list[Slice]]] = defaultdict(lambda: defaultdict(list))
    ends: dict[int, dict[bool, TimelineSpan]] = defaultdict(dict)
    total = len(timeline.spans)
    for number, span in enumerate(timeline.spans):
        if number % _REPORTED == 0:
            progress(number, total, number / total)
        track = spans.PASSES if span.track == spans.LAYERS else span.track
        by_stage[span.stage][track].append(_slice(span))
        if span.transfer is not None:
            ends[span.transfer][span.track.startswith(spans.SENDS)] = span
    processes = [_process(timeline, stage, by_stage[stage]) for stage in sorted(by_stage)]
    position = {stage: number for number, stage in enumerate(sorted(by_stage))}
    flows = [_flow(both[True], both[False], position) for both in ends.values() if len(both) == 2]
    return Trace(processes, flows)


def _process(timeline: Timeline, stage: int, tracks: Mapping[str, list[Slice]]) -> Process:
    process = Process(f"stage {stage}, simulated", stage)
    last_ns = max((one.end_ns for one in tracks.get(spans.PASSES, ())), default=0)
    end_ns = max(nanoseconds(timeline.iteration_time_s), last_ns)
    step = Slice("step", 0, end_ns, {"iteration_time_s": timeline.iteration_time_s, "detail": timeline.detail})
    for track, slices in {spans.PASSES: [], **tracks}.items():
        process.add(track, [step, *slices] if track == spans.PASSES else slices)
    held = [moment for moment in timeline.held if moment.stage == stage]
    process.counters[IN_FLIGHT] = [(nanoseconds(moment.at_s), moment.microbatches) for moment in held]
    process.counters[MEMORY] = [(nanoseconds(moment.at_s), moment.nbytes / _GIB) for moment in held]
    return process


def _slice(span: TimelineSpan) -> Slice:
    place = {"microbatch": span.microbatch, "chunk": span.chunk}
    arguments = {**{name: value for name, value in place.items() if value is not None}, **span.details()}
    name = span.name
    if span.track == spans.PASSES:
        name = f"{_PASSES.get(name, name)} {span.microbatch}"
    elif span.transfer is not None:
        end, _, arguments["carries"] = name.partition(" ")
        name = _ENDS[end]
    elif isinstance(span.item, Communication):
        name, arguments["for"] = span.item.op, span.item.name
    return Slice(name, nanoseconds(span.start_s), nanoseconds(span.end_s), arguments)


def _flow(send: TimelineSpan, receive: TimelineSpan, position: Mapping[int, int]) -> Flow:
    begin, end = (Moment(position[span.stage], span.track, nanoseconds(span.start_s)) for span in (send, receive))
    return Flow(send.name.partition(" ")[2], begin, end)
