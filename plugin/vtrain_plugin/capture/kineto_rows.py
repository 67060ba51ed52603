"""A Chrome trace of Kineto -> rows of the kernels, operators and collectives tables."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeAlias

from vtrain_plugin.capture.rows import Row, Rows, operator_columns
from vtrain_schemas.communication_names import collective_op, nccl_type, role_of_description
from vtrain_schemas.framework_operators import COMPOSITE, element_type, shaped_operator
from vtrain_schemas.kernel_names import kernel_kind
from vtrain_schemas.operators import DTYPE_BYTES

Event: TypeAlias = dict[str, Any]  # an event of the trace, or its arguments: JSON

_KERNEL_CATEGORIES = ("kernel", "gpu_memcpy", "gpu_memset")


@dataclass
class ProfiledStep:
    """A step that was profiled, ns since the Unix epoch. end_ns: 0 where it did not end."""

    step: int
    begin_ns: int
    end_ns: int = 0

    def contains(self, at_ns: int) -> bool:
        """Whether a time lies inside."""
        return self.begin_ns <= at_ns and (at_ns < self.end_ns or not self.end_ns)


@dataclass
class _Times:
    """Columns that all tables have."""

    step: int
    start_ns: int
    duration_ns: int


def trace_rows(trace: Event, steps: list[ProfiledStep], run_id: str, rank: int) -> Rows:
    """Rows of one Chrome trace."""
    return _Trace(trace, steps, {"run_id": run_id, "rank": rank}).rows()


class _Trace:
    """The events of a trace, and what links them: `External id` from kernel to operator."""

    def __init__(self, trace: Event, steps: list[ProfiledStep], common: Row) -> None:
        self._base_ns = int(trace.get("baseTimeNanoseconds", 0))
        self._events = [e for e in trace.get("traceEvents", []) if e.get("ph") == "X" and "dur" in e]
        self._steps = steps
        self._common = common
        self._operators: dict[int, Event] = {}
        for event in self._events:
            external = event.get("args", {}).get("External id")
            if event.get("cat") == "cpu_op" and external is not None:
                self._operators[external] = event
        self._kernel_ns: dict[int | None, int] = {}
        self._sequences: dict[tuple[int, str, str], int] = {}

    def rows(self) -> Rows:
        """Kernels and collectives first: an operator's time is that of its kernels."""
        rows: Rows = {"kernels": [], "operators": [], "collectives": []}
        for event in self._events:
            times = self._times(event)
            if times is None or event.get("cat") not in _KERNEL_CATEGORIES:
                continue
            common, args = {**self._common, **vars(times)}, event.get("args", {})
            rows["kernels"].append({**common, **self._kernel(event, args, times.duration_ns)})
            if "Collective name" in args:
                rows["collectives"].append({**common, **_collective(args, self._sequence(args, times.step))})
        for external, event in self._operators.items():
            times = self._times(event)
            dims = event.get("args", {}).get("Input Dims")
            if times is None or not dims or not any(dims):
                continue
            # On a GPU an operator's time is its kernels'; the CPU event is only the launch.
            times.duration_ns = self._kernel_ns.get(external, times.duration_ns)
            rows["operators"].append({**self._common, **vars(times), **_operator_row(event, dims)})
        return rows

    def _times(self, event: Event) -> _Times | None:
        """When an event ran; None for one outside the profiled steps."""
        start, duration = self._base_ns + round(event["ts"] * 1e3), round(event["dur"] * 1e3)
        step = next((s.step for s in self._steps if s.contains(start)), None)
        if step is None:
            return None
        return _Times(step, start, duration)

    def _kernel(self, event: Event, args: Event, duration_ns: int) -> Row:
        external = args.get("External id")
        launcher = self._operators.get(external) if external is not None else None
        self._kernel_ns[external] = self._kernel_ns.get(external, 0) + duration_ns
        return {
            "name": event["name"],
            "stream": _integer(args.get("stream")),
            "correlation": _integer(args.get("correlation")),
            "operator": launcher["name"] if launcher is not None else None,
            "kind": kernel_kind(event["name"]),
            "bytes": _integer(args.get("bytes")),
        }

    def _sequence(self, args: Event, step: int) -> int:
        """Ordinal of a collective in its group and step."""
        key = (step, str(args.get("Process Group Name", "")), str(args.get("Collective name", "")))
        number = self._sequences.get(key, 0)
        self._sequences[key] = number + 1
        return number


def _operator_row(event: Event, dims: list[object]) -> Row:
    return {
        "span_id": None,
        "name": event["name"],
        "source": "kineto",
        **_operator(event["name"], event["args"]),
        "input_dims": json.dumps(dims),
    }


def _integer(value: object) -> int | None:
    if not isinstance(value, (int, float, str)):
        return None
    try:
        return int(value)
    except (ValueError, OverflowError):
        return None


def _operator(name: str, args: Event) -> Row:
    types = args.get("Input type") or []
    operator = shaped_operator(name, args["Input Dims"], types)
    # Only products: the other kinds are taken from modules, which know their phase.
    if operator is not None and operator.kind == "gemm" and name not in COMPOSITE:
        return operator_columns(operator)
    return {"kind": "other", "phase": "forward", "dtype": element_type(types) or "float32", "batch": 1}


def _collective(args: Event, sequence: int) -> Row:
    dtype = nccl_type(str(args.get("dtype", "")))
    size = DTYPE_BYTES.get(dtype, 2)
    elements = max(int(args.get("In msg nelems", 0) or 0), int(args.get("Out msg nelems", 0) or 0))
    name = str(args.get("Collective name", ""))
    description = str(args.get("Process Group Description", ""))
    return {
        "span_id": None,
        "op": collective_op(name) or name,
        "role": role_of_description(description) or "world",
        "source": "kineto",
        "bytes": elements * size,
        "dtype": dtype,
        "group_ranks": _ranks(args.get("Process Group Ranks")),
        "nodes": None,
        "sequence": sequence,
        "is_async": True,
        "exposed_ns": None,
    }


def _ranks(text: object) -> list[int] | None:
    if isinstance(text, list):
        return [int(r) for r in text]
    try:
        return [int(r) for r in json.loads(str(text))]
    except (ValueError, TypeError):
        return None
