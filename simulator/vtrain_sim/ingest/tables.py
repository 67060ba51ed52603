"""From one rank's trace to the Arrow tables of the profile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from vtrain_schemas import SCHEMA_VERSION, TABLES, arrow_schema
from vtrain_schemas.operators import Operator
from vtrain_schemas.operators.columns import causal_column, fused_column
from vtrain_sim.ingest.call_names import DISPATCH
from vtrain_sim.ingest.collectives import CollectiveTable
from vtrain_sim.ingest.columns import Column, Looked, Numbers, from_zero, pieces
from vtrain_sim.ingest.memory import memory_columns
from vtrain_sim.ingest.notes import KEPT, NOTED
from vtrain_sim.ingest.recording import Recording
from vtrain_sim.ingest.shapes import Forwards, Shapes, kinds_by_name, shapes_of
from vtrain_sim.ingest.spans import SpanTable
from vtrain_sim.ingest.structure import PHASES, Carried, Structure, structure_of
from vtrain_sim.ingest.tally import Tally
from vtrain_sim.ingest.trace import OPERATOR, Bools, Ints, Trace

_DIMS = ("m", "n", "k", "seq_q", "seq_kv", "heads", "kv_heads", "head_dim")


def tables_of(trace: Trace | Recording, run_id: str) -> Iterator[tuple[str, pa.Table]]:
    """Every table of one rank but `runs`, in pieces of a bounded number of rows.

    Where the trace has several windows, pieces of one table come between those of others.

    The last, `ingest`, says what was kept and left out.
    """
    recording = trace if isinstance(trace, Recording) else Recording.of(trace)
    head, carried, forwards = recording.head, Carried(recording.facts), Forwards()
    spans, operators, kernels = SpanTable(recording), _Operators(head), _Kernels(head)
    steps, collectives = _Steps(recording), CollectiveTable(recording, run_id)
    for window in recording.windows():
        structure = structure_of(window, recording.facts, carried)
        shapes = shapes_of(window, structure, recording.facts, forwards)
        for name in ("spans", "operators", "kernels", "memory"):
            # Made when their turn comes: each is large.
            if name == "spans":
                columns = spans.of_window(window, structure)
            elif name == "operators":
                columns = operators.of_window(window, structure, shapes)
            elif name == "kernels":
                columns = kernels.of_window(window, structure)
            else:
                columns = memory_columns(window, structure, recording.facts.steps)
            for piece in pieces(name, columns, run_id, head.rank):
                yield name, piece
        steps.add(window)
        collectives.add(window, structure)
        # Before the next window is read.
        del window, structure, shapes, columns
    for piece in pieces("steps", steps.columns(), run_id, head.rank):
        yield "steps", piece
    for piece in collectives.pieces():
        yield "collectives", piece
    rank = {
        "run_id": run_id,
        "rank": head.rank,
        "host": head.host_name or None,
        **head.coordinates,
        "device_name": head.device_name or None,
    }
    for name, rows in (("ranks", [rank]), ("ingest", head.notes.rows(run_id, head.rank))):
        yield name, pa.Table.from_pylist(rows, schema=arrow_schema(name))


class _Steps:
    """The steps table, with the most memory that was allocated and reserved in each."""

    def __init__(self, recording: Recording) -> None:
        self._steps, self._notes = recording.facts.steps, recording.head.notes
        self._peaks = np.full((len(self._steps.number), 2), -1, dtype=np.int64)

    def add(self, window: Trace) -> None:
        """Take in the memory events of a window."""
        memory = window.memory.take(window.memory.gpu > 0)
        step = self._steps.of(memory.time)
        inside = np.isin(step, self._steps.number)
        order = np.argsort(self._steps.number)
        index = order[np.searchsorted(self._steps.number[order], step[inside])]
        for which, column in enumerate((memory.allocated, memory.reserved)):
            np.maximum.at(self._peaks[:, which], index, column[inside])

    def columns(self) -> dict[str, Column]:
        """Columns of the table, once all windows were taken in."""
        steps, count = self._steps, len(self._steps.number)
        self._notes.add("steps", KEPT, "training steps" if steps.marked else "step made of the whole trace", count)
        return {
            "step": Numbers(steps.number),
            "start_ns": Numbers(steps.start),
            "duration_ns": Numbers(steps.duration),
            "interval_ns": Numbers(np.diff(steps.start + steps.duration, prepend=0), np.arange(count) > 0),
            "peak_allocated_bytes": from_zero(self._peaks[:, 0]),
            "peak_reserved_bytes": from_zero(self._peaks[:, 1]),
        }


class _Operators:
    """Makes the columns of the operators table, window by window; remarks go into the trace's notes."""

    def __init__(self, trace: Trace) -> None:
        self._unknown = Tally(trace.names)
        self._names = pa.array(trace.names, pa.string())
        self._sizes = pa.array([dims.decode("utf-8", "replace") for dims, *_ in trace.signatures], pa.string())

    def of_window(self, trace: Trace, structure: Structure, shapes: Shapes) -> dict[str, Column]:
        """Columns of the operators of a window."""
        host = structure.host
        rows = np.flatnonzero(host.category == OPERATOR)
        kind, phase, words = _kinds_and_phases(trace, structure, shapes, rows)
        shape = shapes.shape[rows]
        time = structure.busy if trace.on_device else host.duration
        self_time = structure.self_time[rows] if trace.on_device else _self_time_on_host(structure, rows)
        other = rows[kind == (words.index("other") if "other" in words else -2)]
        self._unknown.add(host.name[other], host.number[other])
        trace.notes.add("operators", KEPT, "framework operators", len(rows))
        if trace.is_last:
            reason = "have names that no rule knows: kind other"
            trace.notes.add("operators", NOTED, reason, self._unknown.total, ", ".join(self._unknown.most(5)))
        launched = structure.first[rows] < structure.last[rows]
        return {
            "step": Numbers(structure.host_step[rows]),
            "span_id": from_zero(structure.numbers_of(structure.span[rows])),
            "name": Looked(self._names, host.name[rows]),
            "kind": Looked(words, kind),
            "phase": Looked(PHASES, phase),
            "source": Looked([trace.source], np.zeros(len(rows), dtype=np.int64)),
            "input_dims": Looked(self._sizes, host.signature[rows]),
            "start_ns": Numbers(np.where(launched, structure.first[rows], host.start[rows])),
            "duration_ns": Numbers(np.where(shape >= 0, shapes.duration[rows], time[rows])),
            "self_ns": Numbers(self_time),
            "host_duration_ns": Numbers(host.duration[rows]),
            "sequence_number": from_zero(shapes.sequence[rows]),
            **_shape_columns(shapes.operators, shape),
        }


def _kinds_and_phases(trace: Trace, structure: Structure, shapes: Shapes, rows: Ints) -> tuple[Ints, Ints, list[str]]:
    """[rows] kind of each operator, an index into the words that are returned with it, and phase."""
    host = structure.host
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
    if not trace.on_device:
        kind[_wait_for_calls(trace, structure, rows) & ~shaped] = number["communication"]
    return kind, phase, words


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


class _Kernels:
    """Makes the columns of the kernels table, window by window; remarks go into the trace's notes."""

    def __init__(self, trace: Trace) -> None:
        self._unknown = Tally(trace.names)
        self._names = pa.array(trace.names, pa.string())
        self._rows = 0
        self._devices: set[int] = set()

    def of_window(self, trace: Trace, structure: Structure) -> dict[str, Column]:
        """Columns of what a window launched."""
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
        other = np.flatnonzero(kinds == (words.index("other") if "other" in words else -1))
        self._unknown.add(device.name[order][other], self._rows + other)
        self._rows += len(order)
        self._devices.update(np.unique(device.device).tolist())
        notes = trace.notes
        notes.add("kernels", KEPT, "kernels, copies and fills", len(order))
        if trace.is_last:
            several = "used several devices: each has rows of its own in the views of GPU time"
            notes.add("processes", NOTED, several, int(len(self._devices) > 1))
            example = ", ".join(n.partition("<")[0][:60] for n in self._unknown.most(5))
            notes.add("kernels", NOTED, "have names that no rule knows: kind other", self._unknown.total, example)
        return {
            "step": Numbers(structure.device_step[order]),
            "name": Looked(self._names, device.name[order]),
            "stream": from_zero(device.stream[order]),
            "correlation": from_zero(device.correlation[order]),
            "operator": Looked(self._names, name),
            "start_ns": Numbers(device.start[order]),
            "duration_ns": Numbers(device.duration[order]),
            "kind": Looked(words, kinds),
            "bytes": from_zero(device.bytes[order]),
            "span_id": from_zero(structure.numbers_of(span)),
            "launch_ns": from_zero(structure.launched_at[order]),
            "launch_duration_ns": from_zero(structure.launch_time[order]),
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
