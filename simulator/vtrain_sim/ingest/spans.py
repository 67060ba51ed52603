"""Spans of a trace: annotated ranges and modules, on the device's clock where they launched something there."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from vtrain_schemas.range_names import layer_number, range_rule
from vtrain_sim.ingest.columns import Column, Looked, Numbers, from_zero, joined
from vtrain_sim.ingest.notes import DROPPED, KEPT, NOTED
from vtrain_sim.ingest.recording import Recording
from vtrain_sim.ingest.spool import concatenated
from vtrain_sim.ingest.steps import OUTSIDE
from vtrain_sim.ingest.structure import FORWARD, PHASES, Structure
from vtrain_sim.ingest.tally import Tally
from vtrain_sim.ingest.trace import Events, Trace

# What is known of a span in one window. time: by which self time is measured; inside: that of the spans in it.
_PARTS = (
    "step",
    "number",
    "outer",
    "name",
    "phase",
    "layer",
    "start",
    "duration",
    "first",
    "last",
    "busy",
    "time",
    "inside",
)
_NUMBERS = (
    "step",
    "span_id",
    "parent_id",
    "name",
    "phase",
    "layer_number",
    "start_ns",
    "duration_ns",
    "self_ns",
    "host_duration_ns",
    "busy_ns",
)


class SpanTable:
    """Makes the columns of the spans table, window by window; remarks go into the trace's notes."""

    def __init__(self, recording: Recording) -> None:
        head = recording.head
        self._trace, self._facts = head, recording.facts
        self._layers = np.array([layer_number(name) or -1 for name in head.names] or [-1], dtype=np.int64)
        rules = [range_rule(name) for name in head.names]
        self._kinds = [rule.kind if rule is not None else "other" for rule in rules]
        self._names, self._kind_words = pa.array(head.names, pa.string()), pa.array(self._kinds, pa.string())
        self._unknown = Tally(head.names)
        self._pieces: list[Events] = []

    def of_window(self, trace: Trace, structure: Structure) -> dict[str, Column]:
        """Columns of the spans that begin and end in a window; with the last window, of all that are left."""
        parts = self._parts(trace, structure)
        whole = (structure.begun & ~structure.open)[structure.is_span]
        self._pieces.append(parts.take(~whole))
        if not trace.is_last:
            return self._columns(self._of_host(parts.take(whole)))
        rest = _put_together(concatenated(_PARTS, self._pieces))
        numbers = self._of_host(concatenated(_PARTS, [parts.take(whole), rest]))
        if len(trace.gpu_ranges):
            more = self._of_device()
            numbers = {name: joined(numbers[name], more[name]) for name in _NUMBERS}
        columns = self._columns(numbers)
        reason = "have names that no rule knows: kind other"
        trace.notes.add("ranges", NOTED, reason, self._unknown.total, ", ".join(self._unknown.most(5)))
        return columns

    def _parts(self, trace: Trace, structure: Structure) -> Events:
        host = structure.host
        rows = np.flatnonzero(structure.is_span)
        parent = structure.nesting.parent[rows]
        outer = np.where(parent >= 0, structure.span[np.maximum(parent, 0)], -1)
        # What enclosed spans leave: on the device by busy time, which adds up over windows, on the host by the clock.
        time = structure.busy if trace.on_device else np.where(structure.begun, host.duration, 0)
        inside = np.zeros(len(host), dtype=np.int64)
        enclosed = outer >= 0
        np.add.at(inside, outer[enclosed], time[rows[enclosed]])
        marked = np.where(structure.is_span, self._layers[host.name], -1)
        return Events(
            {
                "step": structure.host_step[rows],
                "number": host.number[rows],
                "outer": structure.numbers_of(outer),
                "name": host.name[rows],
                "phase": structure.phase[rows],
                "layer": structure.nesting.pass_down(marked, marked < 0)[rows],
                "start": host.start[rows],
                "duration": host.duration[rows],
                "first": structure.first[rows],
                "last": structure.last[rows],
                "busy": structure.busy[rows],
                "time": time[rows],
                "inside": inside[rows],
            }
        )

    def _of_host(self, spans: Events) -> dict[str, Numbers]:
        launched = spans.last > spans.first
        notes, on_device = self._trace.notes, self._trace.on_device
        notes.add("ranges", KEPT, "annotated ranges and modules", len(spans))
        if on_device:
            reason = "launched nothing on the device: their times are the host's"
            notes.add("ranges", NOTED, reason, int((~launched).sum()))
        return {
            "step": Numbers(spans.step),
            "span_id": Numbers(spans.number),
            "parent_id": from_zero(spans.outer),
            "name": Numbers(spans.name),
            "phase": Numbers(spans.phase),
            "layer_number": Numbers(spans.layer, spans.layer > 0),
            "start_ns": Numbers(np.where(launched, spans.first, spans.start)),
            "duration_ns": Numbers(np.where(launched, spans.last - spans.first, spans.duration)),
            "self_ns": Numbers(np.maximum(0, spans.time - spans.inside)),
            "host_duration_ns": Numbers(spans.duration),
            "busy_ns": Numbers(spans.busy, np.full(len(spans), on_device)),
        }

    def _of_device(self) -> dict[str, Numbers]:
        """Ranges that only the device's timeline has; of the others the kernels tell more."""
        trace, steps = self._trace, self._facts.steps
        ranges = trace.gpu_ranges
        alone = ~np.isin(ranges.external, self._facts.range_externals)
        reason = "copies of host ranges on the device's timeline: worked out from the kernels instead"
        trace.notes.add("ranges", DROPPED, reason, int((~alone).sum()))
        trace.notes.add("ranges", KEPT, "ranges that only the device's timeline has", int(alone.sum()))
        extra = ranges.take(alone)
        nothing = from_zero(np.full(len(extra), -1))
        named = [trace.names[n] for n in extra.name.tolist()]
        phases = [PHASES.index(m.phase) if (m := range_rule(n)) is not None and m.phase else FORWARD for n in named]
        layers = np.array([layer_number(n) or -1 for n in named], dtype=np.int64)
        # The host runs ahead: when they ran does not tell the step that launched them.
        step = np.full(len(extra), OUTSIDE) if steps.marked else steps.of(extra.start)
        return {
            "step": Numbers(step),
            "span_id": Numbers(int(self._facts.host_rows.sum()) + np.arange(len(extra))),
            "parent_id": nothing,
            "name": Numbers(extra.name),
            "phase": Numbers(np.array(phases, dtype=np.int64)),
            "layer_number": from_zero(layers),
            "start_ns": Numbers(extra.start),
            "duration_ns": Numbers(extra.duration),
            "self_ns": Numbers(extra.duration),
            "host_duration_ns": nothing,
            "busy_ns": Numbers(extra.duration),
        }

    def _columns(self, numbers: dict[str, Numbers]) -> dict[str, Column]:
        names, phases = numbers["name"].values, numbers["phase"].values
        other = np.array([kind == "other" for kind in self._kinds] or [False], dtype=bool)[names]
        self._unknown.add(names[other], numbers["span_id"].values[other])
        texts = {
            "name": Looked(self._names, names),
            "kind": Looked(self._kind_words, names),
            "phase": Looked(PHASES, phases),
        }
        return {**numbers, **texts}


def _put_together(pieces: Events) -> Events:
    """Spans of which each window knows a part: the first says what they are, and what they launched adds up."""
    numbers, first, member = np.unique(pieces.number, return_index=True, return_inverse=True)
    spans = pieces.take(first)
    for name in ("first", "last", "busy", "time", "inside"):
        column = pieces.columns[name]
        total = column[first].copy() if name in ("first", "last") else np.zeros(len(numbers), dtype=np.int64)
        combine = np.minimum if name == "first" else np.maximum if name == "last" else np.add
        combine.at(total, member, column)
        spans.columns[name] = total
    return spans
