"""From one rank's trace to the Arrow tables of the profile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from vtrain_schemas import SCHEMA_VERSION, TABLES, arrow_schema
from vtrain_sim.ingest import trace as model
from vtrain_sim.ingest.collectives import DISPATCH, collectives
from vtrain_sim.ingest.columns import Column, Looked, Numbers, from_zero, pieces
from vtrain_sim.ingest.notes import KEPT, NOTED
from vtrain_sim.ingest.shapes import Shapes, kinds_by_name, shapes
from vtrain_sim.ingest.spans import span_columns
from vtrain_sim.ingest.structure import PHASES, Structure, structure
from vtrain_sim.ingest.trace import Trace

_DIMS = ("m", "n", "k", "seq_q", "seq_kv", "heads", "kv_heads", "head_dim")


def tables_of(trace: Trace, run_id: str) -> Iterator[tuple[str, pa.Table]]:
    """Every table of one rank but `runs`, in pieces of a bounded number of rows, a table's pieces in a row.

    The last, `ingest`, says what was kept and left out.
    """
    held = structure(trace)
    found = shapes(trace, held)
    for name in ("spans", "operators", "kernels", "steps"):
        # Made when their turn comes: each is large.
        if name == "spans":
            columns = span_columns(trace, held)
        elif name == "operators":
            columns = _operators(trace, held, found)
        else:
            columns = _kernels(trace, held) if name == "kernels" else _steps(trace, held)
        for piece in pieces(name, columns, run_id, trace.rank):
            yield name, piece
    own = {"run_id": run_id, "rank": trace.rank}
    rank = {
        **own,
        "host": trace.host_name or "unknown",
        "tp_rank": 0,
        "pp_rank": 0,
        "dp_rank": 0,
        "cp_rank": 0,
        "ep_rank": 0,
        "local_rank": trace.rank % trace.devices if trace.devices > 1 else 0,
        "device_name": trace.device_name or None,
    }
    for name, rows in (
        ("collectives", [{**own, **row} for row in collectives(trace, held)]),
        ("ranks", [rank]),
        ("ingest", trace.notes.rows(run_id, trace.rank)),
    ):
        yield name, pa.Table.from_pylist(rows, schema=arrow_schema(name))


def _steps(trace: Trace, held: Structure) -> dict[str, Column]:
    steps = held.steps
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


def _operators(trace: Trace, held: Structure, found: Shapes) -> dict[str, Column]:
    host = held.host
    rows = np.flatnonzero(host.category == model.OPERATOR)
    used = np.zeros(len(trace.names), dtype=bool)
    used[host.name[rows]] = True
    by_name = kinds_by_name(trace, used)
    shape = found.shape[rows]
    shaped = shape >= 0
    words = sorted({"communication", *by_name, *(o.kind for o in found.operators)})
    number = {word: i for i, word in enumerate(words)}
    kind, phase = np.array([number[k] for k in by_name] or [0], dtype=np.int64)[host.name[rows]], held.phase[rows]
    if found.operators:
        some = shape[shaped]
        kind[shaped] = np.array([number[o.kind] for o in found.operators])[some]
        phase[shaped] = np.array([PHASES.index(o.phase) for o in found.operators])[some]
    time = held.busy if trace.on_device else host.duration
    own = held.own[rows] if trace.on_device else _alone(trace, held, rows, shaped, kind, number["communication"])
    unknown = Counter(trace.names[n] for n in host.name[rows[kind == number.get("other", -2)]].tolist())
    example = ", ".join(n for n, _ in unknown.most_common(5))
    trace.notes.add("operators", KEPT, "framework operators", len(rows))
    trace.notes.add("operators", NOTED, "have names that no rule knows: kind other", unknown.total(), example)
    launched = held.first[rows] < held.last[rows]
    sizes = [dims.decode("utf-8", "replace") for dims, *_ in trace.signatures]
    operators = found.operators
    return {
        "step": Numbers(held.host_step[rows]),
        "span_id": from_zero(held.span[rows]),
        "name": Looked(trace.names, host.name[rows]),
        "kind": Looked(words, kind),
        "phase": Looked(PHASES, phase),
        "source": Looked([trace.source], np.zeros(len(rows), dtype=np.int64)),
        "input_dims": Looked(sizes, host.signature[rows]),
        "start_ns": Numbers(np.where(launched, held.first[rows], host.start[rows])),
        "duration_ns": Numbers(np.where(shaped, found.duration[rows], time[rows])),
        "self_ns": Numbers(own),
        "host_duration_ns": Numbers(host.duration[rows]),
        "sequence_number": from_zero(found.sequence[rows]),
        **{name: Looked([getattr(o, name) or None for o in operators], shape, pa.int64()) for name in _DIMS},
        "batch": Looked([o.batch for o in operators], shape, pa.int64()),
        "dtype": Looked([o.dtype for o in operators], shape),
        "fused": Looked([o.fused or None for o in operators], shape),
        "flops": Looked([o.flops() for o in operators], shape, pa.float64()),
        "bytes": Looked([float(o.bytes()) for o in operators], shape, pa.float64()),
    }


def _alone(trace: Trace, held: Structure, rows: Any, shaped: Any, kind: Any, communication: int) -> Any:
    """Host time of operators less that of the operators inside; names those that wait for a call in `kind`."""
    host = held.host
    inner = np.zeros(len(host), dtype=np.int64)
    parent = held.nesting.parent[rows]
    inside = (parent >= 0) & (host.category[np.maximum(parent, 0)] == model.OPERATOR)
    np.add.at(inner, parent[inside], host.duration[rows[inside]])
    # What waits for a call on the host: an operator around the framework's dispatch of one.
    calls = np.array([n.startswith(DISPATCH) for n in trace.names] or [False], dtype=bool)
    waits = np.zeros(len(host), dtype=bool)
    waits[parent[inside & calls[host.name[rows]]]] = True
    kind[waits[rows] & ~shaped] = communication
    return np.maximum(0, host.duration[rows] - inner[rows])


def _kernels(trace: Trace, held: Structure) -> dict[str, Column]:
    device, host = trace.device, held.host
    order = np.argsort(device.start, kind="stable")
    words = sorted(set(held.kinds))
    kinds = np.array([words.index(k) for k in held.kinds], dtype=np.int64)[order]
    launcher = held.launcher[order]
    # The framework operator, where the innermost event is a range inside or around it.
    is_operator = host.category == model.OPERATOR
    nearest = held.nesting.pass_down(np.where(is_operator, np.arange(len(host)), -1), ~is_operator)
    operator, span, name = launcher, launcher, launcher
    if len(host):
        operator = np.where(launcher >= 0, nearest[np.maximum(launcher, 0)], -1)
        span = np.where(launcher >= 0, held.span[np.maximum(launcher, 0)], -1)
        name = np.where(operator >= 0, host.name[np.maximum(operator, 0)], -1)
    other = words.index("other") if "other" in words else -1
    unknown = Counter(trace.names[n] for n in device.name[order][kinds == other].tolist())
    example = ", ".join(n.partition("<")[0][:60] for n, _ in unknown.most_common(5))
    trace.notes.add("kernels", KEPT, "kernels, copies and fills", len(order))
    trace.notes.add("kernels", NOTED, "have names that no rule knows: kind other", unknown.total(), example)
    trace.notes.add("kernels", NOTED, "lie outside every step: step -1", int((held.device_step < 0).sum()))
    return {
        "step": Numbers(held.device_step[order]),
        "name": Looked(trace.names, device.name[order]),
        "stream": Numbers(device.stream[order]),
        "correlation": from_zero(device.correlation[order]),
        "operator": Looked(trace.names, name),
        "start_ns": Numbers(device.start[order]),
        "duration_ns": Numbers(device.duration[order]),
        "kind": Looked(words, kinds),
        "bytes": from_zero(device.bytes[order]),
        "span_id": from_zero(span),
        "launch_ns": from_zero(held.launched_at[order]),
    }


def run_row(run_id: str, trace: Trace, world_size: int, created_ns: int, config_json: str) -> dict[str, Any]:
    """The row of the runs table."""
    known = {name: value for name, value in trace.versions.items() if value}
    row = {
        "run_id": run_id,
        "schema_version": SCHEMA_VERSION,
        "source": trace.source,
        "created_ns": created_ns,
        "world_size": world_size,
        "device_name": trace.device_name or None,
        "device_memory_bytes": trace.device_memory or None,
        "devices_per_host": trace.devices or None,
        "backend": trace.backend or None,
        "vtrain_version": "",
        "config_json": config_json,
        "warmup_steps": 0,
        "clock_source": "cupti" if trace.on_device else "host",
        "active_steps": 0,
        **known,
    }
    assert set(row) <= set(TABLES["runs"].column_names)
    return row
