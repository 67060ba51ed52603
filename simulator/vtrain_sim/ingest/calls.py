"""What a trace says of one collective call: in the kernel's record, or on the host around its launch."""

from __future__ import annotations

import json
from math import prod

from vtrain_schemas.communication_names import collective_op, nccl_type
from vtrain_schemas.framework_operators import element_type
from vtrain_schemas.operators import DTYPE_BYTES
from vtrain_sim.ingest.call_names import RECORD, is_mark
from vtrain_sim.ingest.structure import Structure
from vtrain_sim.ingest.trace import Call, Signature, Trace

# NCCL launches the kernel of grouped calls when the group ends; a group has few calls.
_GROUP_END, _GROUP_START, _LONGEST_GROUP = "ncclGroupEnd", "ncclGroupStart", 256
# No tensor has more elements.
_MOST_ELEMENTS = 1 << 50


def merge(a: Call, b: Call) -> Call:
    """One call of which two events say something; the first is believed where both do."""
    return Call(
        a.op or b.op, a.dtype or b.dtype, max(a.elements, b.elements), max(a.bytes, b.bytes), group=a.group or b.group
    )


class Calls:
    """Looks up calls by kernel and by host event."""

    def __init__(self, trace: Trace, structure: Structure) -> None:
        self._trace = trace
        self._host = structure.host
        self._parent = structure.nesting.parent

    def of_kernel(self, number: int, launcher: int) -> Call:
        """The call of a kernel: `number` where the profiler recorded it, else what its launch says."""
        return self._trace.calls[number] if number > 0 else self.around(launcher)

    def around(self, host_row: int) -> Call:
        """What a host event and those around it say of a call; an empty `Call` for -1."""
        call = Call()
        while host_row >= 0:
            name = self._name(host_row)
            if host_row in self._trace.host_calls:
                return self._trace.calls[self._trace.host_calls[host_row]]
            if name == _GROUP_END:
                call = merge(call, self._of_group(host_row))
            elif is_mark(name):
                call = merge(call, self._from_sizes(host_row, name))
            host_row = int(self._parent[host_row])
        return call

    def recorded(self, host_row: int) -> list[int]:
        """Host events that say which call a kernel launched in `host_row` belongs to."""
        rows: list[int] = []
        while host_row >= 0:
            rows.append(host_row)
            if self._name(host_row) == _GROUP_END:
                rows += self._group(host_row)
            host_row = int(self._parent[host_row])
        return rows

    def _name(self, host_row: int) -> str:
        return self._trace.names[int(self._host.name[host_row])]

    def _group(self, end_row: int) -> list[int]:
        """The calls between a group's start and its end on one thread."""
        rows: list[int] = []
        for row in range(end_row - 1, max(-1, end_row - _LONGEST_GROUP), -1):
            if self._host.thread[row] != self._host.thread[end_row]:
                break
            name = self._name(row)
            if name == _GROUP_END or (name == _GROUP_START and rows):
                break
            if self._trace.host_calls.get(row, 0) > 0:
                rows.append(row)
        return rows

    def _of_group(self, end_row: int) -> Call:
        """The calls of a group as one: bytes add up."""
        calls = [self._trace.calls[self._trace.host_calls[row]] for row in self._group(end_row)]
        if not calls:
            return Call()
        ops = {c.op for c in calls}
        op = ops.pop() if len(ops) == 1 else "p2p" if len(calls) <= 2 else "all_to_all"
        first = calls[0]
        return Call(op, first.dtype, sum(c.elements for c in calls), sum(c.bytes for c in calls), group=first.group)

    def _from_sizes(self, host_row: int, name: str) -> Call:
        """Elements and type from the input sizes of the call, as older profilers recorded them."""
        number = int(self._host.signature[host_row])
        elements, dtype = _largest_tensor(self._trace.signatures[number]) if number >= 0 else (0, "")
        op = "" if name == RECORD else collective_op(name)
        return Call(op, dtype, elements, elements * DTYPE_BYTES.get(dtype, 0))


def _largest_tensor(signature: Signature) -> tuple[int, str]:
    """Elements of the largest tensor among a call's inputs, and their type; 0 and "" without any."""
    dims, types, _ = signature
    try:
        sizes, kinds = json.loads(dims), json.loads(types) if types else []
        tensors = [
            (prod(s), str(k))
            for s, k in zip(sizes, kinds, strict=False)
            if isinstance(s, list) and s and all(type(d) is int for d in s)
        ]
    except (ValueError, TypeError, RecursionError):
        return 0, ""
    if not tensors:
        return 0, ""
    elements = max(count for count, _ in tensors)
    dtype = element_type([k for _, k in tensors]) or nccl_type(tensors[0][1])
    return elements if 0 <= elements < _MOST_ELEMENTS else 0, dtype
