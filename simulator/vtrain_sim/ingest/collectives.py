"""Collectives and point-to-point calls of a trace, from NCCL's kernels or, without a GPU, from the host's marks."""

from __future__ import annotations

import json
from math import prod
from typing import Any

import numpy as np

from vtrain_schemas.communication_names import collective_op, nccl_type, role_of_description
from vtrain_schemas.framework_operators import element_type
from vtrain_schemas.operators import DTYPE_BYTES
from vtrain_schemas.range_names import is_communication
from vtrain_sim.ingest.intervals import Union
from vtrain_sim.ingest.notes import DROPPED, KEPT, NOTED
from vtrain_sim.ingest.structure import Structure
from vtrain_sim.ingest.trace import Call, Trace

_RECORD = "record_param_comms"
DISPATCH = "c10d::"
# NCCL launches the kernel of grouped calls when the group ends; a group has few calls.
_GROUP_END, _GROUP_START, _LONGEST_GROUP = "ncclGroupEnd", "ncclGroupStart", 256
# Kernels of expert-parallel libraries that move the tokens; the others only agree on where they go.
_EXPERT = (("dispatch", "all_to_all"), ("combine", "all_to_all"))


def collectives(trace: Trace, structure: Structure) -> list[dict[str, Any]]:
    """Rows of the collectives table, without run and rank."""
    if trace.on_device:
        rows = _from_kernels(trace, structure)
        what = "collectives and point-to-point calls"
    else:
        rows = _from_host(trace, structure)
        what = "collectives and point-to-point calls, timed on the host"
    trace.notes.add("collectives", KEPT, what, len(rows))
    silent = sum(row["bytes"] is None for row in rows)
    trace.notes.add("collectives", NOTED, "say neither elements nor type: no bytes", silent)
    alone = sum(row["group_ranks"] is None for row in rows)
    trace.notes.add("collectives", NOTED, "do not say which ranks take part", alone)
    _number(rows)
    return rows


def _from_kernels(trace: Trace, structure: Structure) -> list[dict[str, Any]]:
    device = trace.device
    moves = np.array([k == "communication" for k in structure.kinds], dtype=bool)
    computes = np.array([k not in ("communication", "memory") for k in structure.kinds], dtype=bool)
    compute = Union(device.start[computes], device.duration[computes])
    order = np.flatnonzero(moves)
    order = order[np.argsort(device.start[order], kind="stable")]
    hidden = compute.covered(device.start[order], (device.start + device.duration)[order])
    rows = []
    setup = 0
    seen: set[int] = set()
    for row, beside in zip(order.tolist(), hidden.tolist(), strict=True):
        name = trace.names[int(device.name[row])]
        call = _call_of(trace, structure, int(device.call[row]), int(structure.launcher[row]))
        op = call.op if call.op != "send_recv" and collective_op(call.op) else _op_of_kernel(name)
        if not op:
            setup += 1
            continue
        duration = int(device.duration[row])
        seen.update(_recorded(trace, structure, int(structure.launcher[row])))
        rows.append(
            _row(trace, structure, call, op, call.dtype or nccl_type(name), int(structure.launcher[row]))
            | {
                "step": int(structure.device_step[row]),
                "start_ns": int(device.start[row]),
                "duration_ns": duration,
                "exposed_ns": duration - beside,
                "is_async": True,
            }
        )
    silent = _without_kernels(trace, structure, seen)
    reason = "were called but ran no communication kernel (a group of one, or it is not in the trace)"
    trace.notes.add("collectives", NOTED, reason + ": duration of their copies, or none", len(silent))
    rows += silent
    trace.notes.add(
        "collectives", DROPPED, "kernels that set communication up without moving data (see the kernels table)", setup
    )
    return rows


def _recorded(trace: Trace, structure: Structure, host_row: int) -> list[int]:
    """Host events that say what the call is which a kernel launched in `host_row` belongs to."""
    found = []
    while host_row >= 0:
        found.append(host_row)
        if trace.names[int(structure.host.name[host_row])] == _GROUP_END:
            found += _group(trace, structure, host_row)
        host_row = int(structure.nesting.parent[host_row])
    return found


def _without_kernels(trace: Trace, structure: Structure, seen: set[int]) -> list[dict[str, Any]]:
    """Calls that the host recorded with their arguments, and that no communication kernel belongs to."""
    rows = []
    for row, number in trace.host_calls.items():
        call = trace.calls[number]
        if row in seen or not collective_op(call.op):
            continue
        busy = int(structure.busy[row])
        rows.append(
            _row(trace, structure, call, call.op, call.dtype, row)
            | {
                "step": int(structure.host_step[row]),
                "start_ns": int(structure.host.start[row]),
                "is_async": True,
                "duration_ns": busy or None,
                "exposed_ns": None,
            }
        )
    return rows


def _op_of_kernel(name: str) -> str:
    """Operation by a kernel's name; "" for one that moves no data."""
    base = name.replace("(anonymous namespace)::", "").partition("(")[0].partition("<")[0]
    if "nccl" not in base.lower():
        last = base.rpartition("::")[2].removeprefix("void ")
        return next((op for word, op in _EXPERT if last.startswith(word)), "") or collective_op(last)
    found = collective_op(base)
    # NCCL runs both ends of a point-to-point call as one kernel, RCCL everything as a generic one.
    return "p2p" if found == "send_recv" else found or "unknown"


def _call_of(trace: Trace, structure: Structure, number: int, host_row: int) -> Call:
    """What is known of a call: the kernel's own words, else those of the host events around its launch."""
    if number > 0:
        return trace.calls[number]
    found = Call()
    while host_row >= 0:
        name = trace.names[int(structure.host.name[host_row])]
        if host_row in trace.host_calls:
            return trace.calls[trace.host_calls[host_row]]
        if name == _GROUP_END:
            found = _merge(found, _of_group(trace, structure, host_row))
        elif name == _RECORD or is_communication(name):
            found = _merge(found, _from_sizes(trace, structure, host_row, name))
        host_row = int(structure.nesting.parent[host_row])
    return found


def _group(trace: Trace, structure: Structure, end_row: int) -> list[int]:
    """The calls between a group's start and its end on one thread."""
    rows: list[int] = []
    for row in range(end_row - 1, max(-1, end_row - _LONGEST_GROUP), -1):
        if structure.host.thread[row] != structure.host.thread[end_row]:
            break
        name = trace.names[int(structure.host.name[row])]
        if name == _GROUP_END or (name == _GROUP_START and rows):
            break
        if trace.host_calls.get(row, 0) > 0:
            rows.append(row)
    return rows


def _of_group(trace: Trace, structure: Structure, end_row: int) -> Call:
    """The calls of a group as one: bytes add up."""
    rows = _group(trace, structure, end_row)
    calls = [trace.calls[trace.host_calls[row]] for row in rows]
    if not calls:
        return Call()
    ops = {c.op for c in calls}
    op = ops.pop() if len(ops) == 1 else "p2p" if len(calls) <= 2 else "all_to_all"
    return Call(op, calls[0].dtype, sum(c.elements for c in calls), sum(c.bytes for c in calls), group=calls[0].group)


def _from_sizes(trace: Trace, structure: Structure, host_row: int, name: str) -> Call:
    """Elements and type from the input sizes of the call, as older profilers recorded them."""
    signature = int(structure.host.signature[host_row])
    elements, dtype = 0, ""
    if signature >= 0:
        dims, types, _ = trace.signatures[signature]
        try:
            sizes, kinds = json.loads(dims), json.loads(types) if types else []
            tensors = [
                (prod(s), str(k))
                for s, k in zip(sizes, kinds, strict=False)
                if isinstance(s, list) and s and all(type(d) is int for d in s)
            ]
        except (ValueError, TypeError, RecursionError):
            tensors = []
        if tensors:
            elements = max(count for count, _ in tensors)
            elements = elements if 0 <= elements < 1 << 50 else 0
            dtype = element_type([k for _, k in tensors]) or nccl_type(tensors[0][1])
    op = "" if name == _RECORD else collective_op(name)
    return Call(op, dtype, elements, elements * DTYPE_BYTES.get(dtype, 0))


def _merge(a: Call, b: Call) -> Call:
    return Call(
        a.op or b.op, a.dtype or b.dtype, max(a.elements, b.elements), max(a.bytes, b.bytes), group=a.group or b.group
    )


def _from_host(trace: Trace, structure: Structure) -> list[dict[str, Any]]:
    """Calls on the host: the outermost mark of each, with what is said inside it."""
    host, rows = structure.host, []
    taken: set[int] = set()
    marks = [name == _RECORD or is_communication(name) for name in trace.names]
    used = np.zeros(len(trace.names), dtype=bool)
    used[host.name] = True
    # The framework's dispatch of a call, which returns at once, stands for it only where the backend left no mark.
    backend = any(
        u and m and not n.startswith(DISPATCH) for n, m, u in zip(trace.names, marks, used.tolist(), strict=True)
    )
    wanted = np.array(
        [m and not (backend and n.startswith(DISPATCH)) for n, m in zip(trace.names, marks, strict=True)], dtype=bool
    )
    for row in np.flatnonzero(wanted[host.name]).tolist() if len(host) else []:
        name = trace.names[int(host.name[row])]
        parent = int(structure.nesting.parent[row])
        if parent in taken:
            taken.add(row)
            continue
        taken.add(row)
        call = _call_of(trace, structure, 0, row)
        inner = row + 1
        while inner < len(host) and int(structure.nesting.parent[inner]) >= row and not call.op:
            call = _merge(call, _call_of(trace, structure, 0, inner))
            inner += 1
        op = call.op or collective_op(name)
        if not op:
            continue
        duration = int(host.duration[row])
        rows.append(
            _row(trace, structure, call, op, call.dtype, row)
            | {
                "step": int(structure.host_step[row]),
                "start_ns": int(host.start[row]),
                "duration_ns": duration,
                "exposed_ns": duration,
                "is_async": False,
            }
        )
    return rows


def _row(trace: Trace, structure: Structure, call: Call, op: str, dtype: str, host_row: int) -> dict[str, Any]:
    ranks: tuple[int, ...] = call.ranks
    if op in ("send", "recv") and call.source >= 0 and call.destination >= 0:
        ranks = (call.source, call.destination)
    elif not ranks and call.group_size > 0 and call.group_size == trace.world_size:
        ranks = tuple(range(call.group_size))
    nbytes = call.bytes or call.elements * DTYPE_BYTES.get(dtype, 0)
    span = int(structure.span[host_row]) if host_row >= 0 else -1
    per_host = trace.devices
    return {
        "span_id": span if span >= 0 else None,
        "op": op,
        "role": role_of_description(call.description) or "world",
        "source": trace.source,
        "bytes": nbytes or None,
        "dtype": dtype or None,
        "group_ranks": list(ranks) or None,
        # Ranks fill hosts in order; without the number of devices of a host it is not known.
        "nodes": len({r // per_host for r in ranks}) if ranks and per_host > 1 else None,
        "group": call.group,
    }


def _number(rows: list[dict[str, Any]]) -> None:
    """Ordinal of each call in its group, operation and step: equal on all its ranks."""
    counts: dict[tuple[Any, ...], int] = {}
    for row in rows:
        group = row.pop("group")
        key = (row["step"], row["op"], tuple(row["group_ranks"] or ()) or group)
        row["sequence"] = counts.get(key, 0)
        counts[key] = row["sequence"] + 1
