"""``--kernels``: CUPTI kernels, NCCL kernels and framework operators through torch.profiler (Kineto).

The profiler runs over the captured steps; its trace is read back and turned into rows of the same
tables. Kernel and NCCL times are CUPTI's, so they hold for asynchronous communication too.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from typing import Any

from vtrain_schemas.communication_names import collective_op, nccl_type, role_of_description
from vtrain_schemas.framework_operators import COMPOSITE, element_type, shaped_operator
from vtrain_schemas.kernel_names import kernel_kind
from vtrain_schemas.operators import DTYPE_BYTES

_KERNEL_CATEGORIES = ("kernel", "gpu_memcpy", "gpu_memset")


class KinetoCapture:
    """Runs torch.profiler over the captured steps of one rank."""

    def __init__(self) -> None:
        import torch
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU]
        if torch.version.cuda is not None and torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        self._profiler: Any = profile(activities=activities, record_shapes=True)
        self._running = False
        self._steps: list[list[int]] = []  # [step, begin, end], ns since the Unix epoch

    def start_step(self, step: int) -> None:
        """Begin to profile (at the first step) and note where the step begins."""
        if not self._running:
            self._profiler.start()
            self._running = True
        self._steps.append([step, time.time_ns(), 0])

    def end_step(self) -> None:
        """Note where the step ends."""
        if self._steps:
            self._steps[-1][2] = time.time_ns()

    def abandon(self) -> None:
        """Stop without reading anything."""
        if self._running:
            self._running = False
            try:
                self._profiler.stop()
            except RuntimeError:
                pass

    def rows(self, run_id: str, rank: int) -> dict[str, list[dict[str, Any]]]:
        """Stop, and return the rows of the kernels, operators and collectives tables."""
        if not self._running:
            return {}
        self._running = False
        self._profiler.stop()
        handle, path = tempfile.mkstemp(suffix=".json", prefix="vtrain-kineto-")
        os.close(handle)
        try:
            self._profiler.export_chrome_trace(path)
            with open(path, encoding="utf-8") as stream:
                trace = json.load(stream)
        finally:
            os.unlink(path)
        return trace_rows(trace, self._steps, run_id, rank)


def trace_rows(
    trace: dict[str, Any], steps: list[list[int]], run_id: str, rank: int
) -> dict[str, list[dict[str, Any]]]:
    """Rows of one Chrome trace. steps: [step, begin, end] in ns since the Unix epoch."""
    base = int(trace.get("baseTimeNanoseconds", 0))
    events = [e for e in trace.get("traceEvents", []) if e.get("ph") == "X" and "dur" in e]
    operators = {}
    for event in events:
        if event.get("cat") == "cpu_op":
            external = event.get("args", {}).get("External id")
            if external is not None:
                operators[external] = event
    rows: dict[str, list[dict[str, Any]]] = {"kernels": [], "operators": [], "collectives": []}
    kernel_ns: dict[Any, int] = {}
    sequences: dict[Any, int] = {}
    for event in events:
        start, duration = base + round(event["ts"] * 1e3), round(event["dur"] * 1e3)
        step = _step_of(start, steps)
        if step is None:
            continue
        common = {"run_id": run_id, "rank": rank, "step": step, "start_ns": start, "duration_ns": duration}
        args = event.get("args", {})
        if event.get("cat") in _KERNEL_CATEGORIES:
            external = args.get("External id")
            launcher = operators.get(external)
            kernel_ns[external] = kernel_ns.get(external, 0) + duration
            rows["kernels"].append(
                {
                    **common,
                    "name": event["name"],
                    "stream": _integer(args.get("stream")),
                    "correlation": _integer(args.get("correlation")),
                    "operator": launcher["name"] if launcher is not None else None,
                    "kind": kernel_kind(event["name"]),
                    "bytes": _integer(args.get("bytes")),
                }
            )
            if "Collective name" in args:
                rows["collectives"].append({**common, **_collective(args, sequences, step)})
    for external, event in operators.items():
        start, duration = base + round(event["ts"] * 1e3), round(event["dur"] * 1e3)
        step = _step_of(start, steps)
        dims = event.get("args", {}).get("Input Dims")
        if step is None or not dims or not any(dims):
            continue
        # On a GPU an operator's time is its kernels'; the CPU event is only the launch.
        duration = kernel_ns.get(external, duration)
        rows["operators"].append(
            {
                "run_id": run_id,
                "rank": rank,
                "step": step,
                "span_id": None,
                "name": event["name"],
                "source": "kineto",
                **_operator(event["name"], event["args"]),
                "input_dims": json.dumps(dims),
                "start_ns": start,
                "duration_ns": duration,
            }
        )
    return rows


def _step_of(start: int, steps: list[list[int]]) -> int | None:
    for step, begin, end in steps:
        if begin <= start and (start < end or not end):
            return step
    return None


def _integer(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _operator(name: str, args: dict[str, Any]) -> dict[str, Any]:
    from vtrain_plugin.capture.rows import operator_columns

    types = args.get("Input type") or []
    operator = shaped_operator(name, args["Input Dims"], types)
    # Only products: the other kinds are taken from modules, which know their phase.
    if operator is not None and operator.kind == "gemm" and name not in COMPOSITE:
        return operator_columns(operator)
    return {"kind": "other", "phase": "forward", "dtype": element_type(types) or "float32", "batch": 1}


def _collective(args: dict[str, Any], sequences: dict[Any, int], step: int) -> dict[str, Any]:
    name = str(args.get("Collective name", ""))
    dtype = nccl_type(str(args.get("dtype", "")))
    size = DTYPE_BYTES.get(dtype, 2)
    elements = max(int(args.get("In msg nelems", 0) or 0), int(args.get("Out msg nelems", 0) or 0))
    group = str(args.get("Process Group Name", ""))
    description = str(args.get("Process Group Description", ""))
    key = (step, group, name)
    sequences[key] = sequences.get(key, 0) + 1
    return {
        "span_id": None,
        "op": collective_op(name) or name,
        "role": role_of_description(description) or "world",
        "source": "kineto",
        "bytes": elements * size,
        "dtype": dtype,
        "group_ranks": _ranks(args.get("Process Group Ranks")),
        "nodes": None,
        "sequence": sequences[key] - 1,
        "is_async": True,
        "exposed_ns": None,
    }


def _ranks(text: Any) -> list[int] | None:
    if isinstance(text, list):
        return [int(r) for r in text]
    try:
        return [int(r) for r in json.loads(str(text))]
    except (ValueError, TypeError):
        return None
