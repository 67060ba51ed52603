"""Reads torch.profiler's (Kineto's) Chrome trace of one rank."""

from __future__ import annotations

import gc
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vtrain_schemas.framework_operators import causal_argument
from vtrain_sim.errors import UserError
from vtrain_sim.ingest.json_events import NO_ARGUMENTS, Arguments, Event, EventReader
from vtrain_sim.ingest.kineto_calls import call_of, coordinates, described, process_groups
from vtrain_sim.ingest.kineto_values import TimeScale, column, integer, rank_or
from vtrain_sim.ingest.memory import memory_samples
from vtrain_sim.ingest.notes import DROPPED, NOTED, Notes
from vtrain_sim.ingest.recording import Recording, Spools
from vtrain_sim.ingest.trace import (
    DEVICE,
    GPU_RANGES,
    HOST,
    KERNEL,
    LAUNCHES,
    MEMCPY,
    MEMORY,
    MEMSET,
    MODULE,
    OPERATOR,
    RANGE,
    Call,
    Columns,
    Interned,
    Ints,
    Signature,
    Trace,
)

# Categories by what they become; older versions of the profiler had other words.
_HOST_CATEGORIES = {"cpu_op": OPERATOR, "operator": OPERATOR, "user_annotation": RANGE, "python_function": MODULE}
_DEVICE_CATEGORIES = {
    "kernel": KERNEL,
    "gpu_memcpy": MEMCPY,
    "memcpy": MEMCPY,
    "gpu_memset": MEMSET,
    "memset": MEMSET,
    "concurrent_kernel": KERNEL,
}
_OPERATOR_CATEGORIES = ("cpu_op", "operator")
_LAUNCH_CATEGORIES = (
    "cuda_runtime",
    "cuda_driver",
    "runtime",
    "driver",
    "hip_runtime",
    "xpu_runtime",
    "privateuse1_runtime",
)
_GPU_RANGE_CATEGORIES = ("gpu_user_annotation",)
_MODULE = "nn.Module: "
_FLOWS = ("s", "t", "f")
_LABELS = ("M",)


def record_kineto(
    stream: BinaryIO,
    where: str,
    rank: int | None = None,
    progress: Callable[[int], None] = lambda count: None,
    folder: Path | None = None,
) -> Recording:
    """Read one trace, to be worked on in windows.

    rank: overrides what the trace says. progress: called with bytes read. folder: where there is room for what does not
    stay in memory. Raises `UserError` for what is no trace, `OSError` where the disk is full.
    """
    reader = EventReader(stream, where, progress)
    builder = _Builder(reader.metadata, where, Spools.empty(folder))
    # Blocks hold many small objects without cycles: the collector would only walk over them.
    collecting = gc.isenabled()
    gc.disable()
    try:
        for events in reader:
            builder.add(events)
    finally:
        if collecting:
            gc.enable()
    if not builder.seen and (reader.damaged or reader.truncated):
        raise UserError(f"{where} is not a trace: it holds no event that can be read")
    builder.notes.add("events", DROPPED, "damaged places: stepped over, up to the next whole event", reader.damaged)
    if reader.truncated:
        builder.notes.add("files", NOTED, "ends before its list of events does: what came after is lost")
    return builder.spools.recording(builder.head(rank))


class _Builder:
    """Collects the columns of a trace block by block. metadata: is complete only once all events were read."""

    def __init__(self, metadata: Mapping[str, object], where: str, spools: Spools) -> None:
        self.spools = spools
        self.notes = Notes()
        self.seen = 0
        self._metadata = metadata
        self._scale = TimeScale(metadata, where, self.notes)
        self._names: Interned[str] = Interned()
        self._threads: Interned[tuple[object, object]] = Interned()
        self._signatures: Interned[Signature] = Interned()
        self._calls: Interned[Call | None] = Interned()
        self._calls.number(None)
        self._gpu_ranges = Columns(*GPU_RANGES)
        # Device events by device.
        self._used: Counter[int] = Counter()
        self._ignored: Counter[tuple[str, str]] = Counter()

    def add(self, events: Sequence[Event]) -> None:
        """Take in a block of events."""
        self.seen += len(events)
        groups: defaultdict[str, list[Event]] = defaultdict(list)
        for event in events:
            if event.ph == "X":
                groups[event.cat].append(event)
            elif event.ph == "i" and event.name == "[memory]":
                groups["[memory]"].append(event)
            else:
                self._ignored[event.ph, event.cat] += 1
        for category, members in groups.items():
            self._add_group(category, members)

    def _add_group(self, category: str, events: list[Event]) -> None:
        word = category.lower()
        if word == "[memory]":
            self._add_memory(events)
        elif word in _HOST_CATEGORIES:
            if word == "python_function":
                modules = [e for e in events if e.name.startswith(_MODULE)]
                self._ignored["X", "Python stack frames"] += len(events) - len(modules)
                events = modules
            self._add_host(word, *self._timed(events, "operators" if word in _OPERATOR_CATEGORIES else "ranges"))
        elif word in _DEVICE_CATEGORIES:
            self._add_device(word, *self._timed(events, "kernels"))
        elif word in _LAUNCH_CATEGORIES:
            self._add_launches(*self._timed(events, "ranges"))
        elif word in _GPU_RANGE_CATEGORIES:
            self._add_gpu_ranges(*self._timed(events, "ranges"))
        else:
            self._ignored["X", category or "no category"] += len(events)

    def _add_host(self, word: str, events: list[Event], start: Ints, duration: Ints) -> None:
        count, args = len(events), _arguments(events)
        sequence = (
            column((integer(a.sequence) for a in args), count) if word in _OPERATOR_CATEGORIES else np.full(count, -1)
        )
        self.spools.host.add(
            category=np.full(count, _HOST_CATEGORIES[word]),
            name=self._name_column(events),
            start=start,
            duration=duration,
            thread=column(map(self._thread, events), count),
            sequence=sequence,
            signature=column((self._signature(e.name, a) for e, a in zip(events, args, strict=True)), count),
            external=column(map(_external, args), count),
            call=column(map(self._call, args), count),
        )

    def _add_device(self, word: str, events: list[Event], start: Ints, duration: Ints) -> None:
        count, args = len(events), _arguments(events)
        streams = (integer(e.tid if a.stream is None else a.stream) for e, a in zip(events, args, strict=True))
        devices = column((integer(e.pid) for e in events), count)
        self._used.update(devices.tolist())
        self.spools.device.add(
            category=np.full(count, _DEVICE_CATEGORIES[word]),
            name=self._name_column(events),
            start=start,
            duration=duration,
            stream=column(streams, count),
            device=devices,
            correlation=column((integer(a.correlation) for a in args), count),
            external=column(map(_external, args), count),
            bytes=column((integer(a.bytes) for a in args), count),
            call=column(map(self._call, args), count),
        )

    def _add_launches(self, events: list[Event], start: Ints, duration: Ints) -> None:
        self.spools.launches.add(
            thread=column(map(self._thread, events), len(events)),
            start=start,
            duration=duration,
            correlation=column((integer(a.correlation) for a in _arguments(events)), len(events)),
        )

    def _add_gpu_ranges(self, events: list[Event], start: Ints, duration: Ints) -> None:
        self._gpu_ranges.add(
            name=self._name_column(events),
            start=start,
            duration=duration,
            external=column(map(_external, _arguments(events)), len(events)),
            device=column((integer(e.pid) for e in events), len(events)),
        )

    def _add_memory(self, events: list[Event]) -> None:
        times, timed = self._scale.times([e.ts for e in events])
        self.spools.memory.add(**memory_samples(events, times, timed, self._thread, self.notes))

    def _timed(self, events: list[Event], subject: str) -> tuple[list[Event], Ints, Ints]:
        """Events that have a time, and their start and duration, ns."""
        start, timed = self._scale.times([e.ts for e in events])
        duration, lasting = self._scale.durations([e.dur for e in events])
        for bad, reason in (
            (~timed, "without a time"),
            (timed & ~lasting, "without a duration"),
            (timed & lasting & (duration < 0), "with a negative duration"),
        ):
            if bad.any():
                example = events[int(np.flatnonzero(bad)[0])].name
                self.notes.add(subject, DROPPED, reason, int(bad.sum()), example)
        good = timed & lasting & (duration >= 0)
        if not good.all():
            events = [e for e, ok in zip(events, good.tolist(), strict=True) if ok]
            start, duration = start[good], duration[good]
        return events, start, duration

    def _name_column(self, events: list[Event]) -> Ints:
        return column((self._names.number(e.name) for e in events), len(events))

    def _thread(self, event: Event) -> int:
        try:
            return self._threads.number((event.pid, event.tid))
        except TypeError:  # a list where a number or a word belongs
            return self._threads.number((repr(event.pid), repr(event.tid)))

    def _signature(self, name: str, args: Arguments) -> int:
        dims = bytes(args.dims)
        if not dims:
            return -1
        # Values of arguments are many: they are kept only where they say what is computed.
        concrete = bytes(args.concrete) if causal_argument(name) is not None else b""
        return self._signatures.number((dims, bytes(args.types), concrete))

    def _call(self, args: Arguments) -> int:
        """Number of a call's description, -1 for none."""
        call = call_of(args)
        return -1 if call is None else self._calls.number(call)

    def head(self, rank: int | None) -> Trace:
        """The trace without the events that are spooled."""
        self._note_ignored()
        metadata = self._metadata
        groups = process_groups(metadata)
        base_ns = self._scale.base_ns()
        self.spools.shift(base_ns or 0)
        ranges = self._gpu_ranges.finish()
        ranges.columns["start"] += base_ns or 0
        distributed = metadata.get("distributedInfo")
        distributed = distributed if isinstance(distributed, dict) else {}
        devices = _devices(metadata)
        used = _used_device(devices, self._used)
        told = [described(call, groups) for call in self._calls.values]
        of_rank = rank if rank is not None else rank_or(distributed.get("rank"), 0)
        if metadata.get("vtrain.read_error"):
            self.notes.add("files", NOTED, "cannot be read to its end", example=str(metadata["vtrain.read_error"]))
        return Trace(
            source="kineto",
            host=Columns(*HOST).finish(),
            launches=Columns(*LAUNCHES).finish(),
            device=Columns(*DEVICE).finish(),
            gpu_ranges=ranges,
            memory=Columns(*MEMORY).finish(),
            names=self._names.values,
            signatures=self._signatures.values,
            calls=told,
            host_calls={},
            rank=of_rank,
            world_size=rank_or(distributed.get("world_size"), 1),
            notes=self.notes,
            host_name=str(metadata.get("host_name") or ""),
            device_name=str(used.get("name", "")),
            device_memory=max(0, integer(used.get("totalGlobalMem"))),
            devices=len(devices),
            backend=re.sub(r".*cuda:", "", str(distributed.get("backend", ""))),
            versions={
                "nccl_version": str(distributed.get("nccl_version", "")),
                "cuda_version": _cuda_version(metadata.get("cuda_runtime_version")),
            },
            coordinates=coordinates(of_rank, groups, told),
            dated=base_ns is not None,
        )

    def _note_ignored(self) -> None:
        for (phase, category), count in self._ignored.items():
            self.notes.add("events", DROPPED, _why_ignored(phase, category), count)


def _why_ignored(phase: str, category: str) -> str:
    if phase in _FLOWS:
        return "flow arrows: correlation ids and sequence numbers say the same"
    if phase in _LABELS:
        return "labels of processes and threads"
    if category == "Trace" or phase == "i":
        return "marks of the profiler itself"
    if category == "Python stack frames":
        return "Python stack frames other than modules"
    if phase == "X":
        return f"category {category!r} has no place in the tables"
    return f"phase {phase!r} is not one that torch.profiler writes"


def _arguments(events: Sequence[Event]) -> list[Arguments]:
    return [e.args or NO_ARGUMENTS for e in events]


def _external(args: Arguments) -> int:
    return integer(args.external if args.external is not None else args.external_old)


def _devices(metadata: Mapping[str, object]) -> list[dict[str, object]]:
    """Properties of the devices of the host, as the trace lists them."""
    listed = metadata.get("deviceProperties")
    return [d for d in listed if isinstance(d, dict)] if isinstance(listed, list) else []


def _used_device(devices: Sequence[dict[str, object]], events: Mapping[int, int]) -> dict[str, object]:
    """The device that most events ran on; the first one where the list does not have it. events: by device."""
    used = min((number for number in events if number >= 0), key=lambda n: (-events[n], n), default=0)
    return next((d for d in devices if d.get("id") == used), devices[0] if devices else {})


def _cuda_version(value: object) -> str:
    number = integer(value)
    return f"{number // 1000}.{number % 1000 // 10}" if number > 0 else ""
