"""Allocations and releases of memory, as torch.profiler records them with ``profile_memory``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vtrain_sim.ingest.columns import Column, Looked, Numbers, from_zero
from vtrain_sim.ingest.json_events import NO_ARGUMENTS, Event
from vtrain_sim.ingest.kineto_values import column, integer, number
from vtrain_sim.ingest.nesting import innermost
from vtrain_sim.ingest.notes import DROPPED, KEPT, Notes
from vtrain_sim.ingest.steps import Steps
from vtrain_sim.ingest.structure import Structure
from vtrain_sim.ingest.trace import OPERATOR, Bools, Ints, Trace

# c10::DeviceType of the host.
_CPU = 0
_DEVICE_TYPES = ("cpu", "gpu")


def memory_samples(
    events: Sequence[Event], times: Ints, timed: Bools, thread: Callable[[Event], int], notes: Notes
) -> dict[str, Ints]:
    """Columns of `vtrain_sim.ingest.trace.MEMORY` for ``[memory]`` events. times: ns, where `timed` says so.

    thread: number of an event's thread.
    """
    args = [event.args or NO_ARGUMENTS for event in events]
    count = len(events)
    kind = column((integer(a.device_type) for a in args), count)
    usable = timed & (kind >= _CPU)
    notes.add("allocations", DROPPED, "say no time or device", int((~usable).sum()))
    rows = {
        "time": times,
        "thread": column(map(thread, events), count),
        "gpu": (kind != _CPU).astype(np.int64),
        "device": column((integer(a.device_id) for a in args), count),
        # A size may be negative: -1 does not stand for none.
        "sized": column((number(a.memory_bytes) is not None for a in args), count),
        "bytes": column((integer(a.memory_bytes) for a in args), count),
        "allocated": column((integer(a.allocated) for a in args), count),
        "reserved": column((integer(a.reserved) for a in args), count),
    }
    return {name: values[usable] for name, values in rows.items()}


def memory_columns(trace: Trace, structure: Structure, steps: Steps) -> dict[str, Column]:
    """Columns of the memory table, in order of time, for a window of a trace."""
    memory, host = trace.memory.take(np.argsort(trace.memory.time, kind="stable")), structure.host
    around = innermost(host.thread, host.start, host.duration, structure.nesting, memory.thread, memory.time)
    operator, span = (np.full(len(memory), -1, dtype=np.int64) for _ in range(2))
    known = around >= 0
    if known.any():
        is_operator = host.category == OPERATOR
        nearest = structure.nesting.pass_down(np.where(is_operator, np.arange(len(host)), -1), ~is_operator)
        inside = nearest[around[known]]
        operator[known] = np.where(inside >= 0, host.name[np.maximum(inside, 0)], -1)
        span[known] = structure.span[around[known]]
    trace.notes.add("allocations", KEPT, "allocations and releases of memory", len(memory))
    on_gpu = memory.gpu > 0
    return {
        "step": Numbers(steps.of(memory.time)),
        "time_ns": Numbers(memory.time),
        "device_type": Looked(_DEVICE_TYPES, memory.gpu),
        "device": Numbers(memory.device, on_gpu & (memory.device >= 0)),
        "bytes": Numbers(memory.bytes, memory.sized > 0),
        "allocated_bytes": from_zero(memory.allocated),
        # The host's allocator reserves nothing: torch.profiler writes zero.
        "reserved_bytes": Numbers(memory.reserved, on_gpu & (memory.reserved >= 0)),
        "operator": Looked(trace.names, operator),
        "span_id": from_zero(structure.numbers_of(span)),
    }
