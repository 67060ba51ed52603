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

from vtrain_schemas.operators import Operator

_KERNEL_CATEGORIES = ("kernel", "gpu_memcpy", "gpu_memset")
# Framework operators whose input shapes say which GEMM they are.
_GEMMS = {"aten::mm": "mm", "aten::addmm": "addmm", "aten::bmm": "bmm", "aten::baddbmm": "baddbmm"}
_COLLECTIVES = {
    "allreduce": "all_reduce", "_allgather_base": "all_gather", "allgather": "all_gather",
    "all_gather_into_tensor_coalesced": "all_gather", "_reduce_scatter_base": "reduce_scatter",
    "reduce_scatter": "reduce_scatter", "reduce_scatter_tensor_coalesced": "reduce_scatter",
    "all_to_all": "all_to_all", "all_to_allv": "all_to_all", "alltoall": "all_to_all",
    "broadcast": "broadcast", "reduce": "reduce", "send": "send", "recv": "recv", "barrier": "barrier",
}  # fmt: skip
_DTYPES = {"Float": "float32", "BFloat16": "bfloat16", "Half": "float16", "Double": "float64",
           "Int": "int32", "Long": "int64", "Byte": "uint8", "Bool": "bool"}  # fmt: skip


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
                {**common, "name": event["name"], "stream": _integer(args.get("stream")),
                 "correlation": _integer(args.get("correlation")),
                 "operator": launcher["name"] if launcher is not None else None}
            )  # fmt: skip
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
                "run_id": run_id, "rank": rank, "step": step, "span_id": None, "name": event["name"],
                "source": "kineto", **_operator(event["name"], event["args"]),
                "input_dims": json.dumps(dims), "start_ns": start, "duration_ns": duration,
            }
        )  # fmt: skip
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
    from vtrain_plugin.rows import operator_columns

    types = args.get("Input type") or []
    dtype = next((t for t in (_dtype(x) for x in types) if t), "float32")
    operator = gemm_of(name, args["Input Dims"], dtype)
    if operator is not None:
        return operator_columns(operator)
    return {"kind": "other", "phase": "forward", "dtype": dtype, "batch": 1}


def _dtype(name: Any) -> str:
    text = str(name).lower()
    known = {"float": "float32", "c10::bfloat16": "bfloat16", "c10::half": "float16", "double": "float64"}
    return known.get(text, "")


def gemm_of(name: str, dims: list[Any], dtype: str) -> Operator | None:
    """The GEMM that a framework operator with these input dimensions is, or None."""
    kind = _GEMMS.get(name)
    if kind is None:
        return None
    tensors = [d for d in dims if isinstance(d, list) and len(d) in (2, 3)]
    if kind in ("addmm", "baddbmm") and len(tensors) > 2:
        tensors = tensors[-2:]
    if len(tensors) < 2:
        return None
    a, b = tensors[0], tensors[1]
    if len(a) == 2 and len(b) == 2 and a[1] == b[0]:
        return Operator("gemm", "forward", a[0], b[1], a[1], dtype=dtype)
    if len(a) == 3 and len(b) == 3 and a[2] == b[1]:
        # A batched GEMM does the work of one with batch x m rows.
        return Operator("gemm", "forward", a[0] * a[1], b[2], a[2], batch=a[0], dtype=dtype)
    return None


def _collective(args: dict[str, Any], sequences: dict[Any, int], step: int) -> dict[str, Any]:
    from vtrain_plugin.megatron.groups import role_of_description

    name = str(args.get("Collective name", ""))
    dtype = _DTYPES.get(str(args.get("dtype", "")), "")
    size = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "uint8": 1, "bool": 1}.get(dtype, 2)
    elements = max(int(args.get("In msg nelems", 0) or 0), int(args.get("Out msg nelems", 0) or 0))
    group = str(args.get("Process Group Name", ""))
    description = str(args.get("Process Group Description", ""))
    key = (step, group, name)
    sequences[key] = sequences.get(key, 0) + 1
    return {
        "span_id": None,
        "op": _COLLECTIVES.get(name, name),
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
