"""Reads torch.profiler's (Kineto's) Chrome trace of one rank.

The trace writes microseconds, as integers or with fractions, from the Unix epoch or from
``baseTimeNanoseconds``; nanoseconds are recognised by their size.
"""

from __future__ import annotations

import gc
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np

from vtrain_schemas.communication_names import collective_op, nccl_type
from vtrain_schemas.framework_operators import causal_argument
from vtrain_schemas.operators import DTYPE_BYTES
from vtrain_sim.errors import UserError
from vtrain_sim.ingest import trace as model
from vtrain_sim.ingest.json_events import NO_ARGUMENTS, Arguments, Event, EventReader
from vtrain_sim.ingest.notes import DROPPED, NOTED, Notes
from vtrain_sim.ingest.trace import Call, Columns, Interned, Ints, Trace

# Categories by what they become; older versions of the profiler had other words.
_HOST = {
    "cpu_op": model.OPERATOR,
    "operator": model.OPERATOR,
    "user_annotation": model.RANGE,
    "python_function": model.MODULE,
}
_DEVICE = {
    "kernel": model.KERNEL,
    "gpu_memcpy": model.MEMCPY,
    "memcpy": model.MEMCPY,
    "gpu_memset": model.MEMSET,
    "memset": model.MEMSET,
    "concurrent_kernel": model.KERNEL,
}
_LAUNCHES = ("cuda_runtime", "cuda_driver", "runtime", "driver", "hip_runtime", "xpu_runtime", "privateuse1_runtime")
_GPU_RANGES = ("gpu_user_annotation",)
_MODULE = "nn.Module: "
_FLOWS = ("s", "t", "f")
_LABELS = ("M",)

# A microsecond count since 1970 stays below this for three thousand years; nanoseconds passed it in 1973.
_NANOSECONDS_ABOVE = 1e17
# Relative to a base time no trace is thirty years long: such times count from 1970 themselves.
_ABSOLUTE_ABOVE_NS = 1e18
# No cluster has more; a larger number is damage.
_MOST_RANKS = 1 << 24


def read_kineto(
    stream: BinaryIO, where: str, rank: int | None = None, progress: Callable[[int], None] = lambda count: None
) -> Trace:
    """Read one trace. rank: overrides what the trace says. Raises `UserError` for what is no trace."""
    reader = EventReader(stream, where, progress)
    builder = _Builder()
    # Blocks hold many small objects without cycles: the collector would only walk over them.
    collecting = gc.isenabled()
    gc.disable()
    try:
        for events in reader:
            builder.add(events, reader.metadata)
    finally:
        if collecting:
            gc.enable()
    if not builder.seen and (reader.damaged or reader.truncated):
        raise UserError(f"{where} is not a trace: it holds no event that can be read")
    builder.notes.add("events", DROPPED, "damaged places: stepped over, up to the next whole event", reader.damaged)
    if reader.truncated:
        builder.notes.add("files", NOTED, "ends before its list of events does: what came after is lost")
    return builder.finish(reader.metadata, rank)


class _Builder:
    def __init__(self) -> None:
        self.notes = Notes()
        self.seen = 0
        self._names, self._threads, self._signatures, self._calls = Interned(), Interned(), Interned(), Interned()
        self._calls.number(None)
        self._host = Columns(*model.HOST, "call")
        self._launches = Columns(*model.LAUNCHES)
        self._device = Columns(*model.DEVICE)
        self._gpu_ranges = Columns(*model.GPU_RANGES)
        self._memory = Columns(*model.MEMORY)
        self._ignored: Counter[tuple[str, str]] = Counter()
        self._scale: int | None = None  # nanoseconds a unit of time
        self._base = 0

    def add(self, events: Sequence[Event], metadata: dict[str, Any]) -> None:
        """Take in a block of events."""
        self.seen += len(events)
        groups: dict[str, list[Event]] = {}
        for event in events:
            if event.ph == "X":
                held = groups.get(event.cat)
                if held is None:
                    groups[event.cat] = [event]
                else:
                    held.append(event)
            elif event.ph == "i" and event.name == "[memory]":
                groups.setdefault("[memory]", []).append(event)
            else:
                self._ignored[event.ph, event.cat] += 1
        for category, members in groups.items():
            self._add_group(category, members, metadata)

    def _add_group(self, category: str, events: list[Event], metadata: dict[str, Any]) -> None:
        word = category.lower()
        if word == "python_function":
            modules = [e for e in events if e.name.startswith(_MODULE)]
            self._ignored["X", "Python stack frames"] += len(events) - len(modules)
            events = modules
        if word == "[memory]":
            self._add_memory(events, metadata)
            return
        known = word in _HOST or word in _DEVICE or word in _LAUNCHES or word in _GPU_RANGES
        if not known:
            self._ignored["X", category or "no category"] += len(events)
            return
        subject = "kernels" if word in _DEVICE else "operators" if word in ("cpu_op", "operator") else "ranges"
        events, start, duration = self._times(events, subject, metadata)
        if not events:
            return
        args = [e.args or NO_ARGUMENTS for e in events]
        name = _fill((self._names.number(e.name) for e in events), len(events))
        if word in _HOST:
            nothing = np.full(len(events), -1)
            shaped = word in ("cpu_op", "operator")
            self._host.add(
                category=np.full(len(events), _HOST[word]),
                name=name,
                start=start,
                duration=duration,
                thread=_fill((self._threads.number((e.pid, e.tid)) for e in events), len(events)),
                sequence=_fill((_integer(a.sequence) for a in args), len(events)) if shaped else nothing,
                signature=_fill((self._signature(e.name, a) for e, a in zip(events, args, strict=True)), len(events)),
                external=_fill((_external(a) for a in args), len(events)),
                call=_fill((self._call(a) for a in args), len(events)),
            )
        elif word in _DEVICE:
            self._device.add(
                category=np.full(len(events), _DEVICE[word]),
                name=name,
                start=start,
                duration=duration,
                stream=_fill(
                    (_integer(e.tid if a.stream is None else a.stream) for e, a in zip(events, args, strict=True)),
                    len(events),
                ),
                device=_fill((_integer(e.pid) for e in events), len(events)),
                correlation=_fill((_integer(a.correlation) for a in args), len(events)),
                external=_fill((_external(a) for a in args), len(events)),
                bytes=_fill((_integer(a.bytes) for a in args), len(events)),
                call=_fill((self._call(a) for a in args), len(events)),
            )
        elif word in _LAUNCHES:
            self._launches.add(
                thread=_fill((self._threads.number((e.pid, e.tid)) for e in events), len(events)),
                start=start,
                correlation=_fill((_integer(a.correlation) for a in args), len(events)),
            )
        else:
            self._gpu_ranges.add(
                name=name,
                start=start,
                duration=duration,
                external=_fill((_external(a) for a in args), len(events)),
                device=_fill((_integer(e.pid) for e in events), len(events)),
            )

    def _add_memory(self, events: list[Event], metadata: dict[str, Any]) -> None:
        events = [e for e in events if e.args is not None and _integer(e.args.device_type) == 1]
        if not events:
            return
        times, good = self._nanoseconds([e.ts for e in events], metadata)
        rows = [
            (int(t), _integer(e.args.allocated), _integer(e.args.reserved))
            for e, t, ok in zip(events, times.tolist(), good.tolist(), strict=True)
            if ok and e.args is not None
        ]
        table = np.array(rows, dtype=np.int64).reshape(-1, 3)
        self._memory.add(time=table[:, 0], allocated=table[:, 1], reserved=table[:, 2])

    def _times(self, events: list[Event], subject: str, metadata: dict[str, Any]) -> tuple[list[Event], Ints, Ints]:
        """Start and duration of events, in nanoseconds; without the events that have none."""
        start, timed = self._nanoseconds([e.ts for e in events], metadata)
        duration, lasting = _scaled([e.dur for e in events], self._scale or 1000)
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

    def _nanoseconds(self, values: list[Any], metadata: dict[str, Any]) -> tuple[Ints, Any]:
        """Times since the Unix epoch, and which of them are times."""
        if self._scale is None:
            largest = max((abs(v) for v in map(_number, values) if v is not None), default=0.0)
            self._scale = 1 if largest > _NANOSECONDS_ABOVE else 1000
            base = _integer(metadata.get("baseTimeNanoseconds"))
            if base > 0 and largest * self._scale < _ABSOLUTE_ABOVE_NS:
                self._base = base
            elif base > 0:
                self.notes.add("files", NOTED, "has a base time, but its times count from 1970 already: base left out")
            if self._scale == 1:
                self.notes.add(
                    "files", NOTED, "writes nanoseconds where the format has microseconds: read as nanoseconds"
                )
        times, good = _scaled(values, self._scale)
        return np.where(good, times + self._base, times), good

    def _signature(self, name: str, args: Arguments) -> int:
        dims = bytes(args.dims)
        if not dims:
            return -1
        # Values of arguments are many: they are kept only where they say what is computed.
        concrete = bytes(args.concrete) if causal_argument(name) is not None else b""
        return self._signatures.number((dims, bytes(args.types), concrete))

    def _call(self, args: Arguments) -> int:
        """Number of a call's description, -1 for none."""
        name = args.collective if args.collective is not None else args.collective_old
        if name is None:
            return -1
        elements = max(
            _integer(args.elements_in if args.elements_in is not None else args.elements_in_old),
            _integer(args.elements_out if args.elements_out is not None else args.elements_out_old),
            0,
        )
        elements = elements if elements < 1 << 50 else 0
        dtype = nccl_type(str(args.dtype or ""))
        ranks = _ranks(args)
        group = args.group_name if args.group_name not in (None, "") else args.group_id
        call = Call(
            collective_op(str(name)) or str(name),
            dtype,
            elements,
            elements * DTYPE_BYTES.get(dtype, 0),
            max(0, _integer(args.group_size)) or len(ranks),
            "" if group is None else str(group),
            str(args.group_description or ""),
            ranks,
            args.source if _is_rank(args.source) else -1,
            args.destination if _is_rank(args.destination) else -1,
        )
        return self._calls.number(call)

    def finish(self, metadata: dict[str, Any], rank: int | None) -> Trace:
        """The whole trace."""
        for (phase, category), count in self._ignored.items():
            if phase in _FLOWS:
                reason = "flow arrows: correlation ids and sequence numbers say the same"
            elif phase in _LABELS:
                reason = "labels of processes and threads"
            elif category == "Trace" or phase == "i":
                reason = "marks of the profiler itself"
            elif category == "Python stack frames":
                reason = "Python stack frames other than modules"
            elif phase == "X":
                reason = f"category {category!r} has no place in the tables"
            else:
                reason = f"phase {phase!r} is not one that torch.profiler writes"
            self.notes.add("events", DROPPED, reason, count)
        groups = _groups(metadata)
        described = [_described(call, groups) for call in self._calls.values]
        host = self._host.finish()
        calls = {i: int(host.call[i]) for i in np.flatnonzero(host.call > 0).tolist()}
        del host.columns["call"]
        distributed = metadata.get("distributedInfo")
        distributed = distributed if isinstance(distributed, dict) else {}
        devices = metadata.get("deviceProperties")
        devices = [d for d in devices if isinstance(d, dict)] if isinstance(devices, list) else []
        device = self._device.finish()
        used = int(np.bincount(device.device[device.device >= 0]).argmax()) if (device.device >= 0).any() else 0
        mine = next((d for d in devices if d.get("id") == used), devices[0] if devices else {})
        if metadata.get("vtrain.read_error"):
            self.notes.add("files", NOTED, "cannot be read to its end", example=str(metadata["vtrain.read_error"]))
        said, world = distributed.get("rank"), distributed.get("world_size")
        return Trace(
            source="kineto",
            host=host,
            launches=self._launches.finish(),
            device=device,
            gpu_ranges=self._gpu_ranges.finish(),
            memory=self._memory.finish(),
            names=self._names.values,
            signatures=self._signatures.values,
            calls=described,
            host_calls=calls,
            rank=rank if rank is not None else _rank(said, 0),
            world_size=_rank(world, 1),
            notes=self.notes,
            host_name=str(metadata.get("host_name") or ""),
            device_name=str(mine.get("name", "")),
            device_memory=max(0, _integer(mine.get("totalGlobalMem"))),
            devices=len(devices),
            backend=re.sub(r".*cuda:", "", str(distributed.get("backend", ""))),
            versions={
                "nccl_version": str(distributed.get("nccl_version", "")),
                "cuda_version": _cuda(metadata.get("cuda_runtime_version")),
            },
        )


def _fill(values: Any, count: int) -> Ints:
    return np.fromiter(values, dtype=np.int64, count=count)


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < 9e18 else None


def _integer(value: Any) -> int:
    """A whole number, -1 for what is none."""
    if value is None:
        return -1
    if type(value) is int and -(1 << 62) < value < 1 << 62:
        return value
    number = _number(value)
    return -1 if number is None or number != number else int(number)


def _external(args: Arguments) -> int:
    return _integer(args.external if args.external is not None else args.external_old)


def _scaled(values: list[Any], scale: int) -> tuple[Ints, Any]:
    """Times in nanoseconds, and which of them are numbers. Whole microseconds stay exact."""
    try:
        numbers = np.array(values)
    except (ValueError, OverflowError):
        numbers = np.array([None])
    if numbers.dtype.kind == "i" and numbers.ndim == 1:
        good = np.abs(numbers) < (1 << 62) // scale
        return np.where(good, numbers, 0).astype(np.int64) * scale, good
    if numbers.dtype.kind != "f" or numbers.ndim != 1:
        found = [_number(v) for v in values]
        numbers = np.array([np.nan if v is None else v for v in found])
    good = np.isfinite(numbers) & (np.abs(numbers) < float(1 << 62) / scale)
    numbers = np.where(good, numbers, 0.0)
    whole = np.floor(numbers)
    return whole.astype(np.int64) * scale + np.rint((numbers - whole) * scale).astype(np.int64), good


def _ranks(args: Arguments) -> tuple[int, ...]:
    held = args.group_ranks
    if isinstance(held, str):
        try:
            held = json.loads(held)
        except ValueError:  # "[0, 1, ..., 63]": shortened by the profiler
            held = None
    if not isinstance(held, list):
        first, stride, size = _integer(args.first_rank), _integer(args.stride), _integer(args.group_size)
        held = range(first, first + stride * size, stride) if stride > 0 and 0 < size <= _MOST_RANKS else ()
    return tuple(held) if all(_is_rank(r) for r in held) else ()


def _rank(value: Any, otherwise: int) -> int:
    return int(value) if _is_rank(value) else otherwise


def _is_rank(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST_RANKS


def _groups(metadata: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Description and ranks of the process groups that a trace lists, by name."""
    distributed = metadata.get("distributedInfo")
    listed = distributed.get("pg_config") if isinstance(distributed, dict) else None
    found = {}
    for group in listed if isinstance(listed, list) else []:
        if isinstance(group, dict):
            ranks = group.get("ranks")
            ranks = tuple(r for r in ranks if _is_rank(r)) if isinstance(ranks, list) else ()
            found[str(group.get("pg_name", ""))] = (str(group.get("pg_desc") or ""), ranks)
    return found


def _described(call: Call | None, groups: dict[str, tuple[str, tuple[int, ...]]]) -> Call:
    """A call with what the list of groups adds."""
    if call is None:
        return Call()
    description, ranks = groups.get(call.group, ("", ()))
    # A shortened list of ranks is none.
    ranks = ranks if len(ranks) == call.group_size else ()
    return replace(call, description=call.description or description, ranks=call.ranks or ranks)


def _cuda(value: Any) -> str:
    number = _integer(value)
    return f"{number // 1000}.{number % 1000 // 10}" if number > 0 else ""
