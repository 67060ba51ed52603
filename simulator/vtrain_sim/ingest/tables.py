"""From one rank's trace to the Arrow tables of the profile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from vtrain_schemas import SCHEMA_VERSION, TABLES, arrow_schema
from vtrain_schemas.operators import Operator
from vtrain_schemas.operators.columns import causal_column, fused_column
from vtrain_sim.ingest.collectives import DISPATCH, collective_rows
from vtrain_sim.ingest.columns import Column, Looked, Numbers, from_zero, pieces
from vtrain_sim.ingest.notes import KEPT, NOTED
from vtrain_sim.ingest.shapes import Shapes, kinds_by_name, shapes_of
from vtrain_sim.ingest.spans import span_columns
from vtrain_sim.ingest.structure import PHASES, Structure, structure_of
from vtrain_sim.ingest.trace import OPERATOR, Bools, Ints, Trace

_DIMS = ("m", "n", "k", "seq_q", "seq_kv", "heads", "kv_heads", "head_dim")


def tables_of(trace: Trace, run_id: str) -> Iterator[tuple[str, pa.Table]]:
    """Every table of one rank but `runs`, in pieces of a bounded number of rows, a table's pieces in a row.

    The last, `ingest`, says what was kept and left out.
    """
    structure = structure_of(trace)
    shapes = shapes_of(trace, structure)
    for name in ("spans", "operators", "kernels", "steps"):
        # Made when their turn comes: each is large.
        if name == "spans":
            columns = span_columns(trace, structure)
        elif name == "operators":
            columns = _operators(trace, structure, shapes)
        else:
            columns = _kernels(trace, structure) if name == "kernels" else _steps(trace, structure)
        for piece in pieces(name, columns, run_id, trace.rank):
            yield name, piece
    common = {"run_id": run_id, "rank": trace.rank}
    rank = {
        **common,
        "host": trace.host_name or None,
        **trace.coordinates,
        "device_name": trace.device_name or None,
    }
    for name, rows in (
        ("collectives", [{**common, **row} for row in collective_rows(trace, structure)]),
        ("ranks", [rank]),
        ("ingest", trace.notes.rows(run_id, trace.rank)),
    ):
        yield name, pa.Table.from_pylist(rows, schema=arrow_schema(name))


def _steps(trace: Trace, structure: Structure) -> dict[str, Column]:
    steps = structure.steps
    of_memory = steps.of(trace.memory.time)
    peaks = []
    for column in (trace.memory.allocated, trace.memory.reserved):
        most = [int(column[of_memory == n].max()) if (of_memory == n).any() else -1 for n in steps.number.tolist()]
        peaks.append(np.array(most, dtype=np.int64))
    count = len(steps.number)
    trace.notes.add("steps", KEPT, "training steps" if steps.marked else "step made of the whole trace", count)
    return {
        "step": Numbers(steps.number),
        "start_ns": Numbers(steps.start),
        "duration_ns": Numbers(steps.duration),
        "interval_ns": Numbers(np.diff(steps.start + steps.duration, prepend=0), np.arange(count) > 0),
        "peak_allocated_bytes": from_zero(peaks[0]),
        "peak_reserved_bytes": from_zero(peaks[1]),
    }


def _operators(trace: Trace, structure: Structure, shapes: Shapes) -> dict[str, Column]:
    host = structure.host
    rows = np.flatnonzero(host.category == OPERATOR)
    used = np.zeros(len(trace.names), dtype=bool)
    used[host.name[rows]] = True
    by_name = kinds_by_name(trace, used)
    shape = shapes.shape[rows]
    shaped = shape >= 0
    words = sorted({"communication", *by_name, *(o.kind for o in shapes.operators)})
    number = {word: i for i, word in enumerate(words)}
    kind, phase = np.array([number[k] for k in by_name] or [0], dtype=np.int64)[host.name[rows]], structure.phase[rows]
    if shapes.operators:
        some = shape[shaped]
        kind[shaped] = np.array([number[o.kind] for o in shapes.operators])[some]
        phase[shaped] = np.array([PHASES.index(o.phase) for o in shapes.operators])[some]
    time = structure.busy if trace.on_device else host.duration
    if trace.on_device:
        self_time = structure.self_time[rows]
    else:
        self_time = _self_time_on_host(structure, rows)
        kind[_wait_for_calls(trace, structure, rows) & ~shaped] = number["communication"]
    unknown = Counter(trace.names[n] for n in host.name[rows[kind == number.get("other", -2)]].tolist())
    example = ", ".join(n for n, _ in unknown.most_common(5))
    trace.notes.add("operators", KEPT, "framework operators", len(rows))
    trace.notes.add("operators", NOTED, "have names that no rule knows: kind other", unknown.total(), example)
    launched = structure.first[rows] < structure.last[rows]
    sizes = [dims.decode("utf-8", "replace") for dims, *_ in trace.signatures]
    return {
        "step": Numbers(structure.host_step[rows]),
        "span_id": from_zero(structure.span[rows]),
        "name": Looked(trace.names, host.name[rows]),
        "kind": Looked(words, kind),
        "phase": Looked(PHASES, phase),
        "source": Looked([trace.source], np.zeros(len(rows), dtype=np.int64)),
        "input_dims": Looked(sizes, host.signature[rows]),
        "start_ns": Numbers(np.where(launched, structure.first[rows], host.start[rows])),
        "duration_ns": Numbers(np.where(shaped, shapes.duration[rows], time[rows])),
        "self_ns": Numbers(self_time),
        "host_duration_ns": Numbers(host.duration[rows]),
        "sequence_number": from_zero(shapes.sequence[rows]),
        **_shape_columns(shapes.operators, shape),
    }


def _shape_columns(operators: Sequence[Operator], shape: Ints) -> dict[str, Column]:
    """Sizes, choices and work of each row's operator; null where its shape is not known (-1)."""
    return {
        **{name: Looked([getattr(o, name) or None for o in operators], shape, pa.int64()) for name in _DIMS},
        "batch": Looked([o.batch for o in operators], shape, pa.int64()),
        "dtype": Looked([o.dtype for o in operators], shape),
        "fused": Looked([fused_column(o) for o in operators], shape),
        "causal": Looked([causal_column(o) for o in operators], shape, pa.bool_()),
        "flops": Looked([o.flops() for o in operators], shape, pa.float64()),
        "bytes": Looked([float(o.bytes()) for o in operators], shape, pa.float64()),
    }


def _inside_operators(structure: Structure, rows: Ints) -> tuple[Ints, Bools]:
    """[rows] event that encloses each operator, and whether that is an operator too."""
    parent = structure.nesting.parent[rows]
    return parent, (parent >= 0) & (structure.host.category[np.maximum(parent, 0)] == OPERATOR)


def _self_time_on_host(structure: Structure, rows: Ints) -> Ints:
    """Host time of operators less that of the operators inside, ns."""
    host = structure.host
    inner = np.zeros(len(host), dtype=np.int64)
    parent, inside = _inside_operators(structure, rows)
    np.add.at(inner, parent[inside], host.duration[rows[inside]])
    self_time: Ints = np.maximum(0, host.duration[rows] - inner[rows])
    return self_time


def _wait_for_calls(trace: Trace, structure: Structure, rows: Ints) -> Bools:
    """Operators that wait on the host for a call: those around the framework's dispatch of one."""
    host = structure.host
    parent, inside = _inside_operators(structure, rows)
    calls = np.array([n.startswith(DISPATCH) for n in trace.names] or [False], dtype=bool)
    waits = np.zeros(len(host), dtype=bool)
    waits[parent[inside & calls[host.name[rows]]]] = True
    of_rows: Bools = waits[rows]
    return of_rows


def _kernels(trace: Trace, structure: Structure) -> dict[str, Column]:
    device, host = trace.device, structure.host
    order = np.argsort(device.start, kind="stable")
    words = sorted(set(structure.kinds))
    kinds = np.array([words.index(k) for k in structure.kinds], dtype=np.int64)[order]
    launcher = structure.launcher[order]
    # The framework operator, where the innermost event is a range inside or around it.
    is_operator = host.category == OPERATOR
    nearest = structure.nesting.pass_down(np.where(is_operator, np.arange(len(host)), -1), ~is_operator)
    operator, span, name = launcher, launcher, launcher
    if len(host):
        operator = np.where(launcher >= 0, nearest[np.maximum(launcher, 0)], -1)
        span = np.where(launcher >= 0, structure.span[np.maximum(launcher, 0)], -1)
        name = np.where(operator >= 0, host.name[np.maximum(operator, 0)], -1)
    other = words.index("other") if "other" in words else -1
    unknown = Counter(trace.names[n] for n in device.name[order][kinds == other].tolist())
    example = ", ".join(n.partition("<")[0][:60] for n, _ in unknown.most_common(5))
    trace.notes.add("kernels", KEPT, "kernels, copies and fills", len(order))
    if len(np.unique(device.device)) > 1:
        trace.notes.add("processes", NOTED, "used several devices: each has rows of its own in the views of GPU time")
    trace.notes.add("kernels", NOTED, "have names that no rule knows: kind other", unknown.total(), example)
    return {
        "step": Numbers(structure.device_step[order]),
        "name": Looked(trace.names, device.name[order]),
        "stream": from_zero(device.stream[order]),
        "correlation": from_zero(device.correlation[order]),
        "operator": Looked(trace.names, name),
        "start_ns": Numbers(device.start[order]),
        "duration_ns": Numbers(device.duration[order]),
        "kind": Looked(words, kinds),
        "bytes": from_zero(device.bytes[order]),
        "span_id": from_zero(span),
        "launch_ns": from_zero(structure.launched_at[order]),
        "device": from_zero(device.device[order]),
    }


def run_row(run_id: str, trace: Trace, world_size: int, created_ns: int | None, config_json: str) -> dict[str, object]:
    """The row of the runs table."""
    known = {name: value for name, value in trace.versions.items() if value}
    row: dict[str, object] = {
        "run_id": run_id,
        "schema_version": SCHEMA_VERSION,
        "source": trace.source,
        "created_ns": created_ns,
        "world_size": world_size,
        "device_name": trace.device_name or None,
        "device_memory_bytes": trace.device_memory or None,
        "devices_per_host": trace.devices or None,
        "backend": trace.backend or None,
        "config_json": config_json,
        "clock_source": "cupti" if trace.on_device else "host",
        **known,
    }
    assert set(row) <= set(TABLES["runs"].column_names)
    return row
