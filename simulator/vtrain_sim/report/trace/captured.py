"""A captured step as a trace: one process for each rank, with the tracks and names of a simulated one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from vtrain_schemas.operators import DIMENSIONS
from vtrain_sim.catalog.timeline import CapturedRank, CapturedTimeline
from vtrain_sim.model.program import stream_of
from vtrain_sim.report.trace.parts import (
    COMPUTE,
    HOST,
    IN_FLIGHT,
    MEMORY,
    RECEIVES,
    Flow,
    Moment,
    Process,
    Slice,
    Trace,
)
from vtrain_sim.results import Row
from vtrain_sim.simulate.spans import DETAILS, PASSES, SENDS, check_detail

_OF_PASSES = ("step", "forward_step", "backward_step", "p2p")
_OF_LAYERS = ("transformer_layer", "mamba_layer", "mtp_layer")
_SHOWN = ("kind", "phase", "layer_number", "microbatch", "chunk", "self_ns")
_OF_OPERATOR = ("dtype", *DIMENSIONS, "flops", "bytes")
_GIB = 2**30
# Spans that overlap by less than this part of the shorter one follow each other.
_SAME_MOMENT = 0.1
# The two ends of a transfer: ranks of its group, and its number in it.
_Key = tuple[tuple[int, ...], int]


def captured_trace(timeline: CapturedTimeline, detail: str = DETAILS[-1]) -> Trace:
    """The trace of a captured step. detail: one of `DETAILS`. Raises `UserError` for another one."""
    check_detail(detail)
    processes: list[Process] = []
    ends: dict[_Key, dict[str, Moment]] = defaultdict(dict)
    for rank in timeline.ranks:
        stage = "" if rank.stage is None else f"stage {rank.stage}, "
        process = Process(f"{stage}captured {timeline.run_id}, rank {rank.rank}", rank.stage)
        slices = _slices(rank, timeline.begin_ns, detail)
        calls = list(_calls(rank, timeline.begin_ns))
        for track, one, _ in calls:
            slices[track].append(one)
        for track, of_track in slices.items():
            process.add(track, of_track)
        _count(process, rank, timeline.begin_ns)
        lane_of = {id(one): track for track, of_track in process.tracks.items() for one in of_track}
        for _, one, key in calls:
            if key is not None and one.end_ns > one.begin_ns:
                ends[key][one.name] = Moment(len(processes), lane_of[id(one)], one.begin_ns)
        processes.append(process)
    return Trace(processes, list(_flows(processes, ends)))


def _slices(rank: CapturedRank, begin_ns: int, detail: str) -> defaultdict[str, list[Slice]]:
    """Those of modules, host and kernels by their track."""
    tracks: defaultdict[str, list[Slice]] = defaultdict(list)
    operators: dict[int, list[Row]] = defaultdict(list)
    for operator in rank.operators:
        if operator["span_id"] is not None:
            operators[operator["span_id"]].append(operator)
    times = _nested(rank.spans)
    for span in rank.spans:
        track = _track(span, detail)
        if track is None:
            continue
        begin, end = times[span["span_id"]]
        name, arguments = _name(span), _arguments(span, operators[span["span_id"]])
        tracks[track].append(Slice(name, begin - begin_ns, end - begin_ns, arguments))
        if span["host_start_ns"] is not None and detail == DETAILS[-1]:
            launched = span["host_start_ns"] - begin_ns
            tracks[HOST].append(Slice(name, launched, launched + (span["host_duration_ns"] or 0), {}))
    several = len({kernel["device"] for kernel in rank.kernels}) > 1
    for kernel in rank.kernels if detail == DETAILS[-1] else ():
        begin = kernel["start_ns"] - begin_ns
        shown = {name: kernel[name] for name in ("kind", "operator") if kernel[name] is not None}
        track = _track_of_kernel(kernel["device"] if several else None, kernel["stream"])
        tracks[track].append(Slice(kernel["name"], begin, begin + kernel["duration_ns"], shown))
    return tracks


def _track_of_kernel(device: int | None, stream: int | None) -> str:
    """Kernels of one stream; numbers of streams are those of a device."""
    named = (("device", device), ("stream", stream))
    return ", ".join(["kernels", *(f"{word} {number}" for word, number in named if number is not None)])


def _nested(spans: Iterable[Row]) -> dict[int, tuple[int, int]]:
    """Begin and end of each span, inside those of the span around it and after those before it: the marks of one
    moment are a little apart."""
    known = {span["span_id"] for span in spans}
    inside: dict[int | None, list[Row]] = defaultdict(list)
    for span in sorted(spans, key=lambda one: int(one["start_ns"])):
        inside[span["parent_id"] if span["parent_id"] in known else None].append(span)
    times: dict[int, tuple[int, int]] = {}
    todo: list[int | None] = [None]
    while todo:
        parent = todo.pop()
        before: int | None = None
        for span in inside.pop(parent, ()):
            begin, end = span["start_ns"], span["start_ns"] + span["duration_ns"]
            if parent is not None:
                first, last = times[parent]
                begin, end = min(max(begin, first), last), max(min(end, last), first)
            if before is not None and begin < times[before][1] < end:
                early, late = times[before]
                if (late - begin) < _SAME_MOMENT * min(late - early, end - begin):
                    times[before] = (early, begin)
            times[span["span_id"]] = (begin, end)
            before = span["span_id"]
            todo.append(before)
    return times


def _track(span: Row, detail: str) -> str | None:
    """Track that a span is on; None where the detail leaves it out."""
    if span["kind"] in _OF_PASSES:
        return PASSES
    if detail == DETAILS[0]:
        return None
    if span["kind"] in _OF_LAYERS:
        return PASSES
    if detail == DETAILS[1]:
        return None
    return COMPUTE if span["stream"] is None else f"{COMPUTE}, stream {span['stream']}"


def _name(span: Row) -> str:
    if span["kind"] in _OF_PASSES:
        return str(span["kind"]) if span["microbatch"] is None else f"{span['kind']} {span['microbatch']}"
    stem, _, leaf = str(span["name"]).rpartition(".")
    if span["kind"] not in _OF_LAYERS:
        return leaf
    # A stage counts its modules from 0: the number is that of the whole model.
    number = leaf if span["layer_number"] is None else str(span["layer_number"] - 1)
    return f"{stem}.{number}" if stem and leaf.isdecimal() else str(span["name"])


def _arguments(span: Row, operators: list[Row]) -> Mapping[str, object]:
    """What is shown with a span: the operator that it is; and the time of those that are the rest of it."""
    arguments: dict[str, object] = {name: span[name] for name in _SHOWN if span[name] is not None}
    for operator in operators:
        shape = {name: operator[name] for name in _OF_OPERATOR if operator[name] is not None}
        if len(operators) == 1:
            arguments |= {"operator": operator["kind"], **shape}
        else:
            arguments[f"operator {operator['name']}"] = shape
    return arguments | {"provenance": "measured"}


def _calls(rank: CapturedRank, begin_ns: int) -> Iterator[tuple[str, Slice, _Key | None]]:
    """Track, slice and, of an end of a transfer, its key, for each call among several ranks."""
    transfers = {s["span_id"]: s["start_ns"] + s["duration_ns"] for s in rank.spans if s["kind"] == "p2p"}
    for call in rank.collectives:
        ranks = tuple(call["group_ranks"] or ())
        if len(ranks) == 1:
            continue
        begin = call["start_ns"] - begin_ns
        length = call["duration_ns"]
        if length is None:
            # Its end is not known: it is drawn as long as it, or the call of the schedule that it is in, held the
            # rank up.
            length = max(call["exposed_ns"] or 0, transfers.get(call["span_id"], 0) - call["start_ns"])
        shown = ("role", "bytes", "dtype", "is_async", "exposed_ns", "sequence")
        arguments = {name: call[name] for name in shown if call[name] is not None}
        arguments |= {"ranks": len(ranks), "provenance": "measured"}
        op = str(call["op"])
        track = {"send": SENDS, "recv": RECEIVES}.get(op) or stream_of(str(call["role"]))
        key = (ranks, int(call["sequence"])) if op in ("send", "recv") else None
        yield track, Slice(op, begin, begin + length, arguments), key


def _flows(processes: list[Process], ends: Mapping[_Key, Mapping[str, Moment]]) -> Iterator[Flow]:
    """Arrows from sends to the receipts of the same message, where the trace has both."""
    for both in ends.values():
        send, receive = both.get("send"), both.get("recv")
        if send is None or receive is None:
            continue
        # A receipt is often posted long before.
        at_ns = max(send.at_ns, receive.at_ns)
        lane = processes[receive.process].tracks[receive.track]
        if any(one.begin_ns == receive.at_ns and at_ns < one.end_ns for one in lane):
            name = _message(processes[send.process].stage, processes[receive.process].stage)
            yield Flow(name, send, receive._replace(at_ns=at_ns))


def _message(sender: int | None, receiver: int | None) -> str:
    """What one stage sends another."""
    if sender is None or receiver is None:
        return "message"
    return "activations" if sender < receiver else "gradients"


def _count(process: Process, rank: CapturedRank, begin_ns: int) -> None:
    """The counters: microbatches in flight by the passes, memory as the step reports its peak."""
    changes = []
    for span in rank.spans:
        if span["kind"] == "forward_step":
            changes.append((span["start_ns"] - begin_ns, 1))
        elif span["kind"] == "backward_step":
            changes.append((span["start_ns"] + span["duration_ns"] - begin_ns, -1))
    count, values = 0, []
    for at_ns, change in sorted(changes):
        count += change
        values.append((at_ns, float(count)))
    if values:
        process.counters[IN_FLIGHT] = values
    if rank.peak_bytes is not None:
        start_ns = rank.start_ns - begin_ns
        peak = rank.peak_bytes / _GIB
        process.counters[MEMORY] = [(start_ns, peak), (start_ns + rank.duration_ns, peak)]
