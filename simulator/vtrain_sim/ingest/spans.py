"""Spans of a trace: annotated ranges and modules, on the device's clock where they launched something there."""

from __future__ import annotations

from collections import Counter

import numpy as np

from vtrain_schemas.range_names import layer_number, range_rule
from vtrain_sim.ingest.columns import Column, Looked, Numbers, from_zero, joined
from vtrain_sim.ingest.notes import DROPPED, KEPT, NOTED
from vtrain_sim.ingest.structure import FORWARD, OUTSIDE, PHASES, Structure
from vtrain_sim.ingest.trace import RANGE, Trace

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


def span_columns(trace: Trace, structure: Structure) -> dict[str, Column]:
    """Columns of the spans table; remarks go into the trace's notes."""
    numbers = _of_host(trace, structure)
    if len(trace.gpu_ranges):
        more = _of_device(trace, structure)
        numbers = {name: joined(numbers[name], more[name]) for name in _NUMBERS}
    names, phases = numbers["name"].values, numbers["phase"].values
    rules = [range_rule(name) for name in trace.names]
    kinds = [rule.kind if rule is not None else "other" for rule in rules]
    used = Counter(names.tolist())
    unknown = sorted((n for n in used if kinds[n] == "other"), key=lambda n: -used[n])
    example = ", ".join(trace.names[n] for n in unknown[:5])
    trace.notes.add(
        "ranges", NOTED, "have names that no rule knows: kind other", sum(used[n] for n in unknown), example
    )
    texts = {"name": Looked(trace.names, names), "kind": Looked(kinds, names), "phase": Looked(PHASES, phases)}
    return {**numbers, **texts}


def _of_host(trace: Trace, structure: Structure) -> dict[str, Numbers]:
    host = structure.host
    rows = np.flatnonzero(structure.is_span)
    launched = structure.last[rows] > structure.first[rows]
    parent = structure.nesting.parent[rows]
    outer = np.where(parent >= 0, structure.span[np.maximum(parent, 0)], -1)
    # What enclosed spans leave: on the device by its busy time, on the host by the clock.
    time = structure.busy if trace.on_device else host.duration
    inside = np.zeros(len(host), dtype=np.int64)
    enclosed = outer >= 0
    np.add.at(inside, outer[enclosed], time[rows[enclosed]])
    layers = np.array([layer_number(name) or -1 for name in trace.names] or [-1], dtype=np.int64)
    marked = np.where(structure.is_span, layers[host.name], -1)
    layer = structure.nesting.pass_down(marked, marked < 0)[rows]
    trace.notes.add("ranges", KEPT, "annotated ranges and modules", len(rows))
    if trace.on_device:
        reason = "launched nothing on the device: their times are the host's"
        trace.notes.add("ranges", NOTED, reason, int((~launched).sum()))
    return {
        "step": Numbers(structure.host_step[rows]),
        "span_id": Numbers(rows),
        "parent_id": from_zero(outer),
        "name": Numbers(host.name[rows]),
        "phase": Numbers(structure.phase[rows]),
        "layer_number": Numbers(layer, layer > 0),
        "start_ns": Numbers(np.where(launched, structure.first[rows], host.start[rows])),
        "duration_ns": Numbers(np.where(launched, structure.last[rows] - structure.first[rows], host.duration[rows])),
        "self_ns": Numbers(np.maximum(0, time[rows] - inside[rows])),
        "host_duration_ns": Numbers(host.duration[rows]),
        "busy_ns": Numbers(structure.busy[rows], np.full(len(rows), trace.on_device)),
    }


def _of_device(trace: Trace, structure: Structure) -> dict[str, Numbers]:
    """Ranges that only the device's timeline has; of the others the kernels tell more."""
    ranges, host = trace.gpu_ranges, structure.host
    of_ranges = host.external[host.category == RANGE]
    alone = ~np.isin(ranges.external, of_ranges[of_ranges >= 0])
    reason = "copies of host ranges on the device's timeline: worked out from the kernels instead"
    trace.notes.add("ranges", DROPPED, reason, int((~alone).sum()))
    trace.notes.add("ranges", KEPT, "ranges that only the device's timeline has", int(alone.sum()))
    extra = ranges.take(alone)
    nothing = from_zero(np.full(len(extra), -1))
    named = [trace.names[n] for n in extra.name.tolist()]
    phases = [PHASES.index(m.phase) if (m := range_rule(n)) is not None and m.phase else FORWARD for n in named]
    layers = np.array([layer_number(n) or -1 for n in named], dtype=np.int64)
    # The host runs ahead: when they ran does not tell the step that launched them.
    steps = np.full(len(extra), OUTSIDE) if structure.steps.marked else structure.steps.of(extra.start)
    return {
        "step": Numbers(steps),
        "span_id": Numbers(len(host) + np.arange(len(extra))),
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
