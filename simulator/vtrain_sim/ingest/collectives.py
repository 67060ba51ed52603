"""Collectives and point-to-point calls of a trace, from NCCL's kernels or, without a GPU, from the host's marks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa

from vtrain_schemas import arrow_schema
from vtrain_schemas.communication_names import collective_op, nccl_type, role_of_description
from vtrain_schemas.operators import DTYPE_BYTES
from vtrain_sim.ingest.call_names import DISPATCH, is_mark, op_of_kernel
from vtrain_sim.ingest.calls import Calls, merge
from vtrain_sim.ingest.facts import Facts, flags
from vtrain_sim.ingest.intervals import Union
from vtrain_sim.ingest.notes import DROPPED, KEPT, NOTED
from vtrain_sim.ingest.recording import Recording
from vtrain_sim.ingest.structure import Structure, is_compute
from vtrain_sim.ingest.table_file import Shelf
from vtrain_sim.ingest.trace import Call, Columns, Events, Interned, Ints, Trace

# A group that the trace itself names.
FROM_TRACE = "trace"


@dataclass
class CollectiveRow:
    """One row of the collectives table, without run and rank. sequence: is given once all rows are known."""

    step: int
    start_ns: int
    duration_ns: int | None
    exposed_ns: int | None
    span_id: int | None
    op: str
    role: str
    source: str
    bytes: int | None
    dtype: str | None
    group_ranks: tuple[int, ...] | None
    nodes: int | None
    stream: int | None
    device: int | None
    group_name: str | None
    group_source: str | None
    sequence: int = 0

    def columns(self) -> dict[str, object]:
        """The row as column -> value."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class _Times:
    """When a call ran, ns, and where. duration, exposed: None where the trace does not tell; stream, device: -1."""

    step: int
    start: int
    duration: int | None
    exposed: int | None
    stream: int = -1
    device: int = -1


class CollectiveTable:
    """Makes the collectives table, window by window; remarks go into the trace's notes."""

    def __init__(self, recording: Recording, run_id: str) -> None:
        self._common = {"run_id": run_id, "rank": recording.rank}
        self._facts = recording.facts
        self._schema = arrow_schema("collectives")
        self._rows = Shelf(self._schema, recording.folder)
        self._keys: Interned[tuple[object, ...]] = Interned()
        self._order = Columns("key", "silent", "start")

    def add(self, trace: Trace, structure: Structure) -> None:
        """Take in the calls of a window."""
        if trace.on_device:
            rows = _from_kernels(trace, structure)
            what = "collectives and point-to-point calls"
        else:
            rows = list(_from_host(trace, structure, self._facts))
            what = "collectives and point-to-point calls, timed on the host"
        trace.notes.add("collectives", KEPT, what, len(rows))
        silent = sum(row.bytes is None for row in rows)
        trace.notes.add("collectives", NOTED, "say neither elements nor type: no bytes", silent)
        alone = sum(row.group_ranks is None for row in rows)
        trace.notes.add("collectives", NOTED, "do not say which ranks take part", alone)
        keys = [self._keys.number((row.step, row.op, row.group_ranks or row.group_name)) for row in rows]
        self._order.add(
            key=np.array(keys, dtype=np.int64),
            silent=np.array([row.exposed_ns is None for row in rows], dtype=np.int64),
            start=np.array([row.start_ns for row in rows], dtype=np.int64),
        )
        self._rows.add(pa.Table.from_pylist([{**self._common, **row.columns()} for row in rows], schema=self._schema))

    def pieces(self) -> Iterator[pa.Table]:
        """Pieces of the table, once all windows were taken in."""
        numbers = _numbers(self._order.finish())
        place = self._schema.get_field_index("sequence")
        begin = 0
        for table in self._rows.tables():
            end = begin + table.num_rows
            sequence = pa.array(numbers[begin:end]).cast(self._schema.field(place).type)
            yield table.set_column(place, self._schema.field(place), sequence)
            begin = end


def _numbers(rows: Events) -> Ints:
    """Ordinal of each call in its group, operation and step: equal on all its ranks."""
    order = np.lexsort((rows.start, rows.silent, rows.key))
    key = rows.key[order]
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[order] = np.arange(len(order)) - np.searchsorted(key, key)
    return numbers


def _from_kernels(trace: Trace, structure: Structure) -> list[CollectiveRow]:
    device, calls = trace.device, Calls(trace, structure)
    rows: list[CollectiveRow] = []
    setup = 0
    with_kernels: set[int] = set()
    for row, beside in _communication_kernels(trace, structure):
        name, launcher = trace.names[int(device.name[row])], int(structure.launcher[row])
        call = calls.of_kernel(int(device.call[row]), launcher)
        op = call.op if call.op != "send_recv" and collective_op(call.op) else op_of_kernel(name)
        if not op:
            setup += 1
            continue
        with_kernels.update(calls.recorded(launcher))
        duration = int(device.duration[row])
        step, place = int(structure.device_step[row]), (int(device.stream[row]), int(device.device[row]))
        times = _Times(step, int(device.start[row]), duration, duration - beside, *place)
        rows.append(_row(trace, structure, call, op, call.dtype or nccl_type(name), launcher, times))
    silent = list(_without_kernels(trace, structure, with_kernels))
    reason = "were called but ran no communication kernel (a group of one, or it is not in the trace)"
    trace.notes.add("collectives", NOTED, reason + ": duration of their copies, or none", len(silent))
    reason = "kernels that set communication up without moving data (see the kernels table)"
    trace.notes.add("collectives", DROPPED, reason, setup)
    return rows + silent


def _communication_kernels(trace: Trace, structure: Structure) -> Iterator[tuple[int, int]]:
    """Communication kernels in order of time, each with the ns of it that compute kernels of its device run beside."""
    device, beside = trace.device, trace.beside
    moves = np.array([k == "communication" for k in structure.kinds], dtype=bool)
    computes = np.array([is_compute(k) for k in structure.kinds], dtype=bool)
    order = np.flatnonzero(moves)
    order = order[np.argsort(device.start[order], kind="stable")]
    hidden = np.zeros(len(order), dtype=np.int64)
    for number in np.unique(device.device[order]).tolist():
        on_it, mine, others = (
            device.device[order] == number,
            computes & (device.device == number),
            beside.device == number,
        )
        compute = Union(
            np.concatenate([device.start[mine], beside.start[others]]),
            np.concatenate([device.duration[mine], beside.duration[others]]),
        )
        hidden[on_it] = compute.covered(device.start[order[on_it]], (device.start + device.duration)[order[on_it]])
    yield from zip(order.tolist(), hidden.tolist(), strict=True)


def _without_kernels(trace: Trace, structure: Structure, with_kernels: set[int]) -> Iterator[CollectiveRow]:
    """Calls that the host recorded with their arguments, and that no communication kernel belongs to."""
    for row, number in trace.host_calls.items():
        call = trace.calls[number]
        if row in with_kernels or not collective_op(call.op):
            continue
        busy = int(structure.busy[row]) or None
        times = _Times(int(structure.host_step[row]), int(structure.host.start[row]), busy, None)
        yield _row(trace, structure, call, call.op, call.dtype, row, times)


def _from_host(trace: Trace, structure: Structure, facts: Facts) -> Iterator[CollectiveRow]:
    """Calls on the host: the outermost mark of each, with what is said inside it."""
    host, parents, calls = structure.host, structure.nesting.parent, Calls(trace, structure)
    marked: set[int] = set()
    for row in _host_marks(trace, facts).tolist():
        inside = int(parents[row]) in marked
        marked.add(row)
        if inside:
            continue
        call = calls.around(row)
        inner = row + 1
        while inner < len(host) and int(parents[inner]) >= row and not call.op:
            call = merge(call, calls.around(inner))
            inner += 1
        op = call.op or collective_op(trace.names[int(host.name[row])])
        if op:
            duration = int(host.duration[row])
            times = _Times(int(structure.host_step[row]), int(host.start[row]), duration, duration)
            yield _row(trace, structure, call, op, call.dtype, row, times)


def _host_marks(trace: Trace, facts: Facts) -> Ints:
    """Host events that mark a call, in order.

    The framework's dispatch of a call, which returns at once, stands for it only where the backend left no mark.
    """
    marks = flags(trace.names, is_mark)
    if facts.backend_marks:
        marks &= ~flags(trace.names, lambda name: name.startswith(DISPATCH))
    return np.flatnonzero(marks[trace.host.name])


def _row(
    trace: Trace, structure: Structure, call: Call, op: str, dtype: str, host_row: int, times: _Times
) -> CollectiveRow:
    ranks = _ranks(trace, call, op)
    span = int(structure.numbers_of(structure.span[[host_row]])[0]) if host_row >= 0 else -1
    return CollectiveRow(
        step=times.step,
        start_ns=times.start,
        duration_ns=times.duration,
        exposed_ns=times.exposed,
        span_id=span if span >= 0 else None,
        op=op,
        role=role_of_description(call.description) or "world",
        source=trace.source,
        bytes=call.bytes or call.elements * DTYPE_BYTES.get(dtype, 0) or None,
        dtype=dtype or None,
        group_ranks=ranks or None,
        nodes=nodes_of(ranks, trace.devices),
        stream=times.stream if times.stream >= 0 else None,
        device=times.device if times.device >= 0 else None,
        group_name=call.group or None,
        group_source=FROM_TRACE if ranks else None,
    )


def nodes_of(ranks: Sequence[int], devices: int) -> int | None:
    """Hosts that ranks span: they fill hosts in order. Without the number of devices of a host it is not known."""
    return len({rank // devices for rank in ranks}) if ranks and devices > 1 else None


def _ranks(trace: Trace, call: Call, op: str) -> tuple[int, ...]:
    """Global ranks that take part; () where the trace does not tell."""
    if op in ("send", "recv") and call.source >= 0 and call.destination >= 0:
        return call.source, call.destination
    if not call.ranks and call.group_size == 1:
        return (trace.rank,)
    if not call.ranks and call.group_size > 0 and call.group_size == trace.world_size:
        return tuple(range(call.group_size))
    return call.ranks
