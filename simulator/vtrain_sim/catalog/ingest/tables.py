"""From one rank's trace to the Arrow tables of the profile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vtrain_schemas import TABLES, arrow_schema
from vtrain_schemas.operators import Operator
from vtrain_schemas.range_names import layer_number, range_rule
from vtrain_sim.catalog.ingest import trace as model
from vtrain_sim.catalog.ingest.collectives import DISPATCH, collectives
from vtrain_sim.catalog.ingest.notes import DROPPED, KEPT, NOTED
from vtrain_sim.catalog.ingest.shapes import Shapes, kinds_by_name, shapes
from vtrain_sim.catalog.ingest.structure import FORWARD, PHASES, Structure, structure
from vtrain_sim.catalog.ingest.trace import Ints, Trace

_DIMS = ("m", "n", "k", "seq_q", "seq_kv", "heads", "kv_heads", "head_dim")


def tables_of(trace: Trace, run_id: str) -> Iterator[tuple[str, pa.Table]]:
    """Every table of one rank but `runs`, one at a time; the last, `ingest`, says what was kept and left out."""
    held = structure(trace)
    found = shapes(trace, held)
    yield "spans", _complete("spans", _spans(trace, held), run_id, trace.rank)
    yield "operators", _complete("operators", _operators(trace, held, found), run_id, trace.rank)
    yield "kernels", _complete("kernels", _kernels(trace, held), run_id, trace.rank)
    yield (
        "collectives",
        _complete("collectives", _from_rows("collectives", collectives(trace, held)), run_id, trace.rank),
    )
    yield "steps", _complete("steps", _steps(trace, held), run_id, trace.rank)
    rank = {"run_id": run_id, "rank": trace.rank, "host": trace.host_name or "unknown",
            "local_rank": trace.rank % trace.devices if trace.devices > 1 else 0, "tp_rank": 0, "pp_rank": 0,
            "dp_rank": 0, "cp_rank": 0, "ep_rank": 0, "device_name": trace.device_name or None}  # fmt: skip
    yield "ranks", pa.Table.from_pylist([rank], schema=arrow_schema("ranks"))
    yield "ingest", pa.Table.from_pylist(trace.notes.rows(run_id, trace.rank), schema=arrow_schema("ingest"))


def _complete(name: str, columns: dict[str, Any], run_id: str, rank: int) -> pa.Table:
    """A table with all columns of its schema: those that are not given are null."""
    schema = arrow_schema(name)
    count = len(next(iter(columns.values())))
    columns = {"run_id": _repeat(run_id, count), "rank": np.full(count, rank), **columns}
    arrays = []
    for field in schema:
        column = columns.get(field.name)
        if column is None:
            arrays.append(pa.nulls(count, field.type))
        elif isinstance(column, pa.Array):
            arrays.append(column.cast(field.type))
        else:
            arrays.append(pa.array(column).cast(field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _repeat(text: str, count: int) -> pa.Array:
    return pa.array([text]).take(pa.array(np.zeros(count, dtype=np.int64)))


def _words(values: Iterable[str | None], index: Ints) -> pa.Array:
    """Text by number; a negative number is null."""
    return pa.array(list(values), type=pa.string()).take(pa.array(index, mask=index < 0))


def _known(values: Ints, known: NDArray[np.bool_]) -> pa.Array:
    return pa.array(values, mask=~known)


def _from_rows(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    schema = arrow_schema(name)
    names = [f.name for f in schema if f.name not in ("run_id", "rank")]
    return {n: pa.array([row.get(n) for row in rows], type=schema.field(n).type) for n in names}


def _steps(trace: Trace, held: Structure) -> dict[str, Any]:
    steps = held.steps
    order = np.argsort(steps.start, kind="stable")
    number, start, duration = steps.number[order], steps.start[order], steps.duration[order]
    ends = start + duration
    interval = np.diff(ends, prepend=0)
    of_memory = steps.of(trace.memory.time)
    peaks = []
    for column in (trace.memory.allocated, trace.memory.reserved):
        most = [int(column[of_memory == n].max()) if (of_memory == n).any() else -1 for n in number.tolist()]
        peaks.append(np.array(most, dtype=np.int64))
    trace.notes.add("steps", KEPT, "training steps" if steps.marked else "step made of the whole trace", len(number))
    return {
        "step": number, "start_ns": start, "duration_ns": duration,
        "interval_ns": _known(interval, np.arange(len(number)) > 0),
        "peak_allocated_bytes": _known(peaks[0], peaks[0] >= 0),
        "peak_reserved_bytes": _known(peaks[1], peaks[1] >= 0),
    }  # fmt: skip


def _spans(trace: Trace, held: Structure) -> dict[str, Any]:
    host = held.host
    rows = np.flatnonzero(held.is_span)
    launched = held.last[rows] > held.first[rows]
    start = np.where(launched, held.first[rows], host.start[rows])
    duration = np.where(launched, held.last[rows] - held.first[rows], host.duration[rows])
    parent = held.nesting.parent[rows]
    outer = np.where(parent >= 0, held.span[np.maximum(parent, 0)], -1)
    # What enclosed spans leave: on the device by its busy time, on the host by the clock.
    time = held.busy if trace.on_device else host.duration
    inside = np.zeros(len(host), dtype=np.int64)
    enclosed = outer >= 0
    np.add.at(inside, outer[enclosed], time[rows[enclosed]])
    own = np.maximum(0, time[rows] - inside[rows])
    kinds, layers = [], []
    for name in trace.names:
        rule = range_rule(name)
        kinds.append(rule.kind if rule is not None else "other")
        layers.append(layer_number(name) or -1)
    marked = np.where(held.is_span, np.array(layers or [-1], dtype=np.int64)[host.name], -1)
    layer = held.nesting.pass_down(marked, marked < 0)[rows]
    used = Counter(host.name[rows].tolist())
    unknown = [n for n in used if kinds[n] == "other"]
    trace.notes.add("ranges", KEPT, "annotated ranges and modules", len(rows))
    trace.notes.add("ranges", NOTED, "have names that no rule knows: kind other", sum(used[n] for n in unknown),
                    ", ".join(trace.names[n] for n in sorted(unknown, key=lambda n: -used[n])[:5]))  # fmt: skip
    if trace.on_device:
        trace.notes.add(
            "ranges", NOTED, "launched nothing on the device: their times are the host's", int((~launched).sum())
        )
    columns = {
        "step": held.host_step[rows], "span_id": rows, "parent_id": _known(outer, outer >= 0),
        "name": host.name[rows], "phase": held.phase[rows], "layer_number": layer, "start_ns": start,
        "duration_ns": duration, "self_ns": own, "host_duration_ns": host.duration[rows],
        "busy_ns": held.busy[rows] if trace.on_device else np.full(len(rows), -1),
    }  # fmt: skip
    columns = _with_device_ranges(trace, held, columns)
    kind = _words(kinds, columns["name"])
    return {
        **columns, "kind": kind, "name": _words(trace.names, columns["name"]),
        "phase": _words(PHASES, columns["phase"]), "layer_number": _positive(columns["layer_number"]),
        "host_duration_ns": _known_or_null(columns["host_duration_ns"]), "busy_ns": _known_or_null(columns["busy_ns"]),
    }  # fmt: skip


def _with_device_ranges(trace: Trace, held: Structure, columns: dict[str, Any]) -> dict[str, Any]:
    """Spans with those that only the device's timeline has; of the others the kernels tell more."""
    ranges, host = trace.gpu_ranges, held.host
    if not len(ranges):
        return columns
    of_ranges = host.external[host.category == model.RANGE]
    alone = ~np.isin(ranges.external, of_ranges[of_ranges >= 0])
    reason = "copies of host ranges on the device's timeline: worked out from the kernels instead"
    trace.notes.add("ranges", DROPPED, reason, int((~alone).sum()))
    trace.notes.add("ranges", KEPT, "ranges that only the device's timeline has", int(alone.sum()))
    extra = ranges.take(alone)
    count = len(extra)
    named = [trace.names[n] for n in extra.name.tolist()]
    phases = [PHASES.index(m.phase) if (m := range_rule(n)) is not None and m.phase else FORWARD for n in named]
    layers = [layer_number(n) or -1 for n in named]
    more = {
        "step": held.steps.of(extra.start), "span_id": len(host) + np.arange(count),
        "parent_id": pa.nulls(count, pa.int64()), "name": extra.name, "phase": np.array(phases, dtype=np.int64),
        "layer_number": np.array(layers, dtype=np.int64), "start_ns": extra.start, "duration_ns": extra.duration,
        "self_ns": extra.duration,
        "host_duration_ns": np.full(count, -1), "busy_ns": extra.duration,
    }  # fmt: skip
    return {
        name: pa.concat_arrays([column, more[name]])
        if isinstance(column, pa.Array)
        else np.concatenate([column, more[name]])
        for name, column in columns.items()
    }


def _known_or_null(values: Ints) -> pa.Array:
    return _known(values, values >= 0)


def _positive(values: Ints) -> pa.Array:
    return _known(values, values > 0)


def _operators(trace: Trace, held: Structure, found: Shapes) -> dict[str, Any]:
    host = held.host
    rows = np.flatnonzero(host.category == model.OPERATOR)
    used = np.zeros(len(trace.names), dtype=bool)
    used[host.name[rows]] = True
    by_name = kinds_by_name(trace, used)
    shape, shaped = found.shape[rows], found.shape[rows] >= 0
    words = sorted({"communication", *by_name, *(o.kind for o in found.operators)})
    number = {word: i for i, word in enumerate(words)}
    kind = np.array([number[k] for k in by_name], dtype=np.int64)[host.name[rows]] if len(rows) else shape
    kind = np.where(shaped, _of(found.operators, [number[o.kind] for o in found.operators], shape), kind)
    phases = np.where(
        shaped, _of(found.operators, [PHASES.index(o.phase) for o in found.operators], shape), held.phase[rows]
    )
    time = held.busy if trace.on_device else host.duration
    duration = np.where(shaped, found.duration[rows], time[rows])
    inner = np.zeros(len(host), dtype=np.int64)
    if not trace.on_device:
        parent = held.nesting.parent[rows]
        inside = (parent >= 0) & (host.category[np.maximum(parent, 0)] == model.OPERATOR)
        np.add.at(inner, parent[inside], host.duration[rows[inside]])
        # What waits for a call on the host: an operator around the framework's dispatch of one.
        calls = np.array([n.startswith(DISPATCH) for n in trace.names], dtype=bool)
        waits = np.zeros(len(host), dtype=bool)
        waits[parent[inside & calls[host.name[rows]]]] = True
        kind = np.where(waits[rows] & ~shaped, number["communication"], kind)
    own = held.own[rows] if trace.on_device else np.maximum(0, host.duration[rows] - inner[rows])
    unknown = Counter(trace.names[n] for n in host.name[rows[kind == number.get("other", -2)]].tolist())
    trace.notes.add("operators", KEPT, "framework operators", len(rows))
    trace.notes.add("operators", NOTED, "have names that no rule knows: kind other", sum(unknown.values()),
                    ", ".join(n for n, _ in unknown.most_common(5)))  # fmt: skip
    signature = host.signature[rows]
    sizes = [dims.decode("utf-8", "replace") for dims, *_ in trace.signatures]
    launched = held.first[rows] < held.last[rows]
    columns: dict[str, Any] = {
        "step": held.host_step[rows], "span_id": _known(held.span[rows], held.span[rows] >= 0),
        "name": _words(trace.names, host.name[rows]), "kind": _words(words, kind), "phase": _words(PHASES, phases),
        "source": _repeat(trace.source, len(rows)), "input_dims": _words(sizes, signature),
        "start_ns": np.where(launched, held.first[rows], host.start[rows]), "duration_ns": duration, "self_ns": own,
        "host_duration_ns": host.duration[rows],
        "sequence_number": _known(found.sequence[rows], found.sequence[rows] >= 0),
    }  # fmt: skip
    for name in _DIMS:
        values = _of(found.operators, [getattr(o, name) for o in found.operators], shape)
        columns[name] = _known(values, values > 0)
    columns["batch"] = _known(_of(found.operators, [o.batch for o in found.operators], shape), shaped)
    columns["dtype"] = _words([o.dtype for o in found.operators], shape)
    columns["fused"] = _words([o.fused or None for o in found.operators], shape)
    for name in ("flops", "bytes"):
        values = np.array([getattr(o, name)() for o in found.operators] or [0.0])
        columns[name] = pa.array(values[np.maximum(shape, 0)] if len(shape) else np.empty(0), mask=~shaped)
    return columns


def _of(operators: list[Operator], values: list[int], shape: Ints) -> Ints:
    """A value of each row's operator; 0 for rows without one."""
    if not operators:
        return np.zeros(len(shape), dtype=np.int64)
    return np.where(shape >= 0, np.array(values, dtype=np.int64)[np.maximum(shape, 0)], 0)


def _kernels(trace: Trace, held: Structure) -> dict[str, Any]:
    device = trace.device
    order = np.argsort(device.start, kind="stable")
    kinds = np.array(held.kinds, dtype=object)[order] if len(order) else np.empty(0, dtype=object)
    launcher = held.launcher[order]
    # The framework operator, where the innermost event is a range inside or around it.
    is_operator = held.host.category == model.OPERATOR
    nearest = held.nesting.pass_down(np.where(is_operator, np.arange(len(held.host)), -1), ~is_operator)
    operator = np.where(launcher >= 0, nearest[np.maximum(launcher, 0)], -1) if len(nearest) else launcher
    span = np.where(launcher >= 0, held.span[np.maximum(launcher, 0)], -1) if len(nearest) else launcher
    name = np.where(operator >= 0, held.host.name[np.maximum(operator, 0)], -1) if len(nearest) else operator
    unknown = Counter(trace.names[n] for n in device.name[order][kinds == "other"].tolist())
    trace.notes.add("kernels", KEPT, "kernels, copies and fills", len(order))
    trace.notes.add("kernels", NOTED, "have names that no rule knows: kind other", sum(unknown.values()),
                    ", ".join(n.partition("<")[0] for n, _ in unknown.most_common(5)))  # fmt: skip
    trace.notes.add("kernels", NOTED, "lie outside every step: step -1", int((held.device_step < 0).sum()))
    return {
        "step": held.device_step[order], "name": _words(trace.names, device.name[order]),
        "stream": device.stream[order],
        "correlation": _known(device.correlation[order], device.correlation[order] >= 0),
        "operator": _words(trace.names, name), "start_ns": device.start[order], "duration_ns": device.duration[order],
        "kind": pa.array(kinds.tolist(), type=pa.string()),
        "bytes": _known(device.bytes[order], device.bytes[order] >= 0),
        "span_id": _known(span, span >= 0),
        "launch_ns": _known(held.launched_at[order], held.launched_at[order] >= 0),
    }  # fmt: skip


def run_row(run_id: str, trace: Trace, world_size: int, created_ns: int, config_json: str) -> dict[str, Any]:
    """The row of the runs table."""
    from vtrain_schemas import SCHEMA_VERSION

    known = {name: value for name, value in trace.versions.items() if value}
    row = {
        "run_id": run_id, "schema_version": SCHEMA_VERSION, "source": trace.source, "created_ns": created_ns,
        "world_size": world_size, "device_name": trace.device_name or None,
        "device_memory_bytes": trace.device_memory or None, "devices_per_host": trace.devices or None,
        "backend": trace.backend or None, "vtrain_version": "", "config_json": config_json, "warmup_steps": 0,
        "clock_source": "cupti" if trace.on_device else "host", "active_steps": 0, **known,
    }  # fmt: skip
    assert set(row) <= set(TABLES["runs"].column_names)
    return row
