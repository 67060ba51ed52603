"""From recorded spans and calls to rows of the profile tables.

Operators are what is left of a span once enclosed spans and blocking communication are taken off,
so that the operators of a step, its communication and its gaps add up to the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeAlias

from vtrain_plugin.capture.clock import Resolver, StepTimes
from vtrain_plugin.capture.recorder import Call, Span, StepRecord
from vtrain_schemas.operators import Operator
from vtrain_schemas.operators.columns import causal_column, fused_column

Row: TypeAlias = dict[str, object]  # a row of Parquet: column -> value
Rows: TypeAlias = dict[str, list[Row]]
Interval: TypeAlias = tuple[int, int]


def rows_of_step(
    record: StepRecord,
    marks: StepTimes,
    run_id: str,
    rank: int,
    nodes_of: Callable[[tuple[int, ...]], int | None],
    pause: Callable[[], object] = lambda: None,
) -> Iterator[tuple[str, Row]]:
    """All rows of one step, each with the name of its table.

    pause: called between parts of the work before the first row.
    """
    resolve = marks.at
    common = {"run_id": run_id, "rank": rank, "step": record.step}
    times = {
        s.id: (resolve(s.begin), resolve(s.end)) for s in record.spans if s.begin is not None and s.end is not None
    }
    pause()
    spans = [s for s in record.spans if s.id in times]
    blocked = _blocked_time(record.calls, resolve)
    pause()
    covered = _covered_by_children(spans, times, blocked)
    pause()
    for span in spans:
        begin, end = times[span.id]
        self_ns = max(0, end - begin - covered.get(span.id, 0))
        host = _on_host(span, marks)
        yield "spans", {**common, **_span_row(span, begin, end - begin, self_ns), **host}
        if span.operator is not None:
            row = _operator_row(span, span.operator, begin, self_ns)
            yield "operators", {**common, **row, "host_bound": _may_have_gaps(begin, **host)}
    for call in record.calls:
        yield "collectives", {**common, **_call_row(call, resolve), "nodes": nodes_of(call.ranks)}
    begin, end = times[record.root.id]
    yield (
        "steps",
        {
            **common,
            "start_ns": begin,
            "duration_ns": end - begin,
            "interval_ns": record.interval_ns,
            "num_microbatches": record.microbatches,
            "tokens": record.tokens or None,
            "peak_allocated_bytes": record.memory[0],
            "peak_reserved_bytes": record.memory[1],
        },
    )


def _blocked_time(calls: list[Call], resolve: Resolver) -> dict[int, int]:
    """Nanoseconds of blocking communication directly inside each span."""
    blocked: dict[int, int] = {}
    for call in calls:
        if call.span is None or call.is_async or call.end is None or call.stream != call.span.stream:
            continue
        duration = resolve(call.end) - resolve(call.begin)
        blocked[call.span.id] = blocked.get(call.span.id, 0) + duration
    # A wait is blocking where it happens, which may be another span than the issuing one.
    for call in calls:
        for span, begin, end in call.waits:
            if span is not None:
                blocked[span.id] = blocked.get(span.id, 0) + resolve(end) - resolve(begin)
    return blocked


def _covered_by_children(spans: list[Span], times: dict[int, Interval], blocked: dict[int, int]) -> dict[int, int]:
    """Nanoseconds of each span that its children or its communication account for."""
    intervals: dict[int, list[Interval]] = {}
    for span in spans:
        if span.parent is not None and span.parent.id in times and span.stream == span.parent.stream:
            parent_begin, parent_end = times[span.parent.id]
            begin, end = times[span.id]
            # Hooks on one tensor fire in the order of registration: clip to the parent.
            begin, end = max(begin, parent_begin), min(end, parent_end)
            if end > begin:
                intervals.setdefault(span.parent.id, []).append((begin, end))
    covered = dict(blocked)
    for parent, parts in intervals.items():
        parts.sort()
        total, reached = 0, parts[0][0]
        for begin, end in parts:
            begin = max(begin, reached)
            if end > begin:
                total += end - begin
                reached = end
        covered[parent] = covered.get(parent, 0) + total
    return covered


def _on_host(span: Span, marks: StepTimes) -> dict[str, int | None]:
    """When the host launched a span, and how long that took it."""
    if marks.lag is None or span.begin is None or span.end is None:
        return {"host_start_ns": None, "host_duration_ns": None}
    begin, end = (marks.at(mark) - marks.lag(mark) for mark in (span.begin, span.end))
    return {"host_start_ns": begin, "host_duration_ns": end - begin}


def _may_have_gaps(start_ns: int, host_start_ns: int | None, host_duration_ns: int | None) -> bool | None:
    """Whether the device may have waited for launches: the host was not done when the device began."""
    if host_start_ns is None or host_duration_ns is None:
        return None
    return start_ns < host_start_ns + host_duration_ns


def _span_row(span: Span, begin: int, duration: int, self_ns: int) -> Row:
    return {
        "span_id": span.id,
        "parent_id": span.parent.id if span.parent is not None else None,
        "name": span.name,
        "kind": span.kind,
        "phase": span.phase,
        "layer_number": span.layer,
        "microbatch": span.microbatch,
        "chunk": span.chunk,
        "start_ns": begin,
        "duration_ns": duration,
        "self_ns": self_ns,
        "stream": span.stream,
    }


@lru_cache(maxsize=4096)
def operator_columns(operator: Operator) -> Row:
    """The columns that describe an operator's kind, shape and work: one object for equal operators."""
    dims = ("m", "n", "k", "seq_q", "seq_kv", "heads", "kv_heads", "head_dim")
    return {
        "kind": operator.kind,
        "phase": operator.phase,
        **{d: getattr(operator, d) or None for d in dims},
        "batch": operator.batch,
        "dtype": operator.dtype,
        "fused": fused_column(operator),
        "causal": causal_column(operator),
        "flops": operator.flops(),
        "bytes": operator.bytes(),
    }


def _operator_row(span: Span, operator: Operator, begin: int, self_ns: int) -> Row:
    return {
        "span_id": span.id,
        "name": span.remainder or span.name.rpartition(".")[2],
        "source": "module",
        **operator_columns(operator),
        "communication_role": span.communication_role or None,
        "start_ns": begin,
        "duration_ns": self_ns,
    }


def _call_row(call: Call, resolve: Resolver) -> Row:
    begin = resolve(call.begin)
    # When an asynchronous call ended is not known: somebody may wait for it long after.
    known = call.end is not None and not call.is_async
    duration = max(0, resolve(call.end) - begin) if known and call.end is not None else None
    beside = call.stream is not None
    waited = sum(resolve(b) - resolve(a) for _, a, b in call.waits)
    return {
        "span_id": call.span.id if call.span is not None else None,
        "op": call.op,
        "role": call.role,
        "source": "hook",
        "bytes": call.nbytes,
        "dtype": call.dtype,
        "group_ranks": list(call.ranks),
        "sequence": call.sequence,
        "is_async": call.is_async,
        "start_ns": begin,
        "duration_ns": duration,
        "exposed_ns": waited if call.is_async else 0 if beside else duration,
        "stream": call.stream,
    }
