"""Reads an Nsight Systems report that was exported to SQLite: one trace for each process that used a GPU.

No table of events must be there: the exporter leaves out those without rows, such as kernels where none ran.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from vtrain_schemas.communication_names import collective_op
from vtrain_schemas.range_names import is_communication, range_rule
from vtrain_sim.errors import UserError
from vtrain_sim.ingest.notes import DROPPED, NOTED, Notes
from vtrain_sim.ingest.nsys_export import Export, Row, by_process, open_export, process_of, whole
from vtrain_sim.ingest.nvtx_payloads import Payload, Payloads
from vtrain_sim.ingest.trace import (
    DEVICE,
    GPU_RANGES,
    HOST,
    KERNEL,
    LAUNCHES,
    MEMCPY,
    MEMORY,
    MEMSET,
    OPERATOR,
    RANGE,
    Call,
    Columns,
    Interned,
    Signature,
    Trace,
)

# Nanoseconds from any epoch stay below this, and sums of two of them below what 64 bits hold.
_LATEST = 1 << 61
# No cluster has more ranks.
_MOST_RANKS = 1 << 24
_PUSH_POP, _START_END, _DOMAIN = 59, 60, 75
_KERNELS, _COPIES, _FILLS = "CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_MEMCPY", "CUPTI_ACTIVITY_KIND_MEMSET"
_GRAPHS, _RANGES = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE", "NVTX_EVENTS"
_CALLS = ("CUPTI_ACTIVITY_KIND_RUNTIME", "CUPTI_ACTIVITY_KIND_DRIVER")
# A report has one of these whatever was traced: the exporter leaves out tables without rows.
_SIGNS = {_KERNELS, _COPIES, _RANGES, _GRAPHS, *_CALLS, "OSRT_API", "META_DATA_EXPORT", "META_DATA_CAPTURE"} | {
    f"TARGET_INFO_{word}" for word in ("SESSION_START_TIME", "SYSTEM_ENV", "GPU", "CUDA_DEVICE")
}
# Tables of events that have no place in a profile.
_LEFT_OUT = {
    "OSRT_API": "calls of the operating system",
    "SCHED_EVENTS": "switches of threads",
    "COMPOSITE_EVENTS": "samples of call stacks",
    "GPU_METRICS": "samples of the GPU's counters",
    "PROFILER_OVERHEAD": "time that the profiler itself took",
    "CUPTI_ACTIVITY_KIND_SYNCHRONIZATION": "waits of the host for the GPU",
}
# torch.autograd.profiler.emit_nvtx: "aten::mm, seq = 7, op_id = 12, sizes = [[8, 4], [4, 2]]".
_EMITTED = re.compile(r"^(.+?)(?:, seq = (-?\d+))?(?:, op_id = \d+)?(?:, sizes = (\[.*?\]))?(?:, input_op_ids = .*)?$")
# Ranges of record_function carry an operator's id too: their names are no operators'.
_RECORDED_RANGE = re.compile(r"^(?!autograd::|aten::).*([ #]|^FSDP::)")
_FRAMEWORK = re.compile(
    r"^(aten|autograd|torch|c10d|te|tex|flash_attn|mkldnn|prims|_c10d_functional)::|, (seq|op_id) = "
)


def read_nsys(path: Path, rank: int | None = None) -> list[Trace]:
    """Read a report. rank: that of its first process. Raises `UserError` for what is no such report."""
    with open_export(path) as export:
        if not _SIGNS & set(export.columns):
            raise UserError(
                f"{path} is SQLite but not an Nsight Systems export: it has neither kernels ({_KERNELS}) nor ranges "
                f"({_RANGES}) nor what is known of the session"
            )
        return _Report(export, path).traces(rank)


class _Process:
    """Columns of one process. hosts, kernels: host and device events so far. devices: device events by GPU."""

    def __init__(self) -> None:
        self.host = Columns(*HOST)
        self.hosts = 0
        self.launches = Columns(*LAUNCHES)
        self.device = Columns(*DEVICE)
        self.kernels = 0
        self.devices: dict[int, int] = {}
        self.calls: dict[int, int] = {}

    @property
    def busiest_device(self) -> int:
        """The GPU that most of its device events ran on; 0 without any."""
        return max(self.devices, key=self.devices.__getitem__, default=0)


class _Report:
    """Reads the tables of one export into columns by process.

    epoch: start of the session, ns since 1970; 0 where the report does not say it. Raises `UserError` for no time.
    """

    def __init__(self, export: Export, path: Path) -> None:
        self.export = export
        self.notes = Notes()
        self.processes: dict[int, _Process] = {}
        self.names: Interned[str] = Interned()
        self.threads: Interned[object] = Interned()
        self.signatures: Interned[Signature] = Interned()
        self.called: Interned[Call | None] = Interned()
        self.called.number(None)
        # Of each communicator, by process: its place and the number of ranks.
        self.communicators: dict[str, dict[int, tuple[int, int]]] = {}
        began = export.value("TARGET_INFO_SESSION_START_TIME", "utcEpochNs")
        if began is not None and not 0 <= whole(began) < _LATEST:
            raise UserError(
                f"{path} says that its session began at utcEpochNs {began!r}, which is no time: expected whole "
                "nanoseconds since 1970, such as 1711964646000000000"
            )
        self.epoch = whole(began) if began is not None else 0
        if not self.epoch:
            reason = "does not say when the session began: its times count from that moment"
            self.notes.add("files", NOTED, reason)

    def traces(self, rank: int | None) -> list[Trace]:
        """One trace per process that used a GPU, or per process where none did."""
        self._read_kernels()
        self._read_copies()
        self._read_calls()
        self._read_ranges()
        for table in (_KERNELS, _COPIES, *_CALLS, _RANGES):
            if table not in self.export.columns:
                self.notes.add("files", NOTED, f"has no table {table}: nothing of that kind was traced")
        for table, what in _LEFT_OUT.items():
            self.notes.add("events", DROPPED, f"{what} ({table}): no place in the tables", self.export.count(table))
        active = {pid: p for pid, p in self.processes.items() if p.kernels} or self.processes
        for pid in set(self.processes) - set(active):
            self.notes.add("ranges", DROPPED, "of processes that used no GPU", self.processes[pid].hosts)
        if not active:
            return [self._trace(_Process(), [Call()], rank or 0, 1, self.notes)]
        ranks = self._rank_of(active, rank or 0)
        calls = self._calls(ranks)
        notes = [self.notes, *(Notes() for _ in range(len(ranks) - 1))]
        return [
            self._trace(active[pid], calls, of_process, len(ranks), noted)
            for (pid, of_process), noted in zip(ranks.items(), notes, strict=True)
        ]

    def _rank_of(self, active: Mapping[int, _Process], first: int) -> dict[int, int]:
        """Rank of each process, in their order: as MPI gives it, else by GPU and process from `first` on."""
        mpi_rank = {}
        for number, rank in self.export.rows("MPI_RANKS", ["globalPid", "rank"]):
            if process_of(number) in active and 0 <= whole(rank) < _MOST_RANKS:
                mpi_rank[process_of(number)] = whole(rank)
        order = sorted(active, key=lambda pid: (mpi_rank.get(pid, 1 << 30), active[pid].busiest_device, pid))
        if len(set(mpi_rank.values())) < len(mpi_rank):
            self.notes.add("processes", NOTED, "have a rank that another has: numbered by GPU instead", len(mpi_rank))
            mpi_rank = {}
        if len(order) > 1 and not mpi_rank:
            self.notes.add("processes", NOTED, "do not say their rank: numbered by GPU, then by process", len(order))
        return {pid: mpi_rank.get(pid, index + first) for index, pid in enumerate(order)}

    def _calls(self, ranks: Mapping[int, int]) -> list[Call]:
        """All calls by their numbers, with the ranks of their communicators."""
        groups = self._groups(ranks)
        calls = [Call()]
        for call in self.called.values[1:]:
            if call is not None:
                members = groups.get(call.group, ())
                calls.append(replace(call, ranks=members, group_size=len(members)))
        return calls

    def _trace(self, process: _Process, calls: list[Call], rank: int, count: int, notes: Notes) -> Trace:
        gpus = list(self.export.rows("TARGET_INFO_GPU", ["id", "name", "totalMemory"]))
        used = process.busiest_device
        _, name, memory = next((g for g in gpus if g[0] == used), gpus[0] if gpus else (0, "", 0))
        environment = self.export.rows("TARGET_INFO_SYSTEM_ENV", ["name", "value"])
        host_name = next((v for n, v in environment if n == "Hostname"), "")
        return Trace(
            source="nsys",
            host=process.host.finish(),
            launches=process.launches.finish(),
            device=process.device.finish(),
            gpu_ranges=Columns(*GPU_RANGES).finish(),
            memory=Columns(*MEMORY).finish(),
            names=self.names.values,
            signatures=self.signatures.values,
            host_calls=process.calls,
            calls=calls,
            rank=rank,
            world_size=max(count, rank + 1),
            notes=notes,
            host_name=str(host_name or ""),
            device_name=str(name or ""),
            device_memory=max(0, whole(memory)),
            devices=len(gpus),
            backend="nccl" if any("nccl" in n for n in self.names.numbers) else "",
            dated=self.epoch > 0,
        )

    def _timed(self, rows: list[Row], subject: str) -> list[Row]:
        """Rows whose first two columns are a start and an end that follows it."""
        good = [r for r in rows if isinstance(r[0], int) and isinstance(r[1], int) and 0 <= r[0] <= r[1] < _LATEST]
        self.notes.add(subject, DROPPED, "without an end, or ending before they begin", len(rows) - len(good))
        return good

    # The tables

    def _read_kernels(self) -> None:
        wanted = [
            "start",
            "end",
            "globalPid",
            "deviceId",
            "streamId",
            "correlationId",
            "demangledName",
            "shortName",
            "name",
        ]
        for block in self.export.blocks(_KERNELS, wanted):
            rows = self._timed(block, "kernels")
            self._add_device(
                rows, KERNEL, [self.export.text(next((v for v in r[6:9] if v is not None), None)) for r in rows]
            )
        wanted = ["start", "end", "globalPid", "deviceId", "streamId", "correlationId", "graphId"]
        for block in self.export.blocks(_GRAPHS, wanted):
            rows = self._timed(block, "kernels")
            reason = "are whole CUDA graphs (--cuda-graph-trace=graph): their kernels are not in the report"
            self.notes.add("kernels", NOTED, reason, len(rows))
            self._add_device(rows, KERNEL, [f"CUDA graph {r[6]}" for r in rows])

    def _read_copies(self) -> None:
        labels: dict[object, object] = dict(self.export.rows("ENUM_CUDA_MEMCPY_OPER", ["id", "label"]))
        wanted = ["start", "end", "globalPid", "deviceId", "streamId", "correlationId", "copyKind", "bytes"]
        for block in self.export.blocks(_COPIES, wanted):
            rows = self._timed(block, "kernels")
            self._add_device(rows, MEMCPY, [f"Memcpy {labels.get(r[6]) or f'kind {r[6]}'}" for r in rows], 7)
        for block in self.export.blocks(_FILLS, [*wanted[:6], "value", "bytes"]):
            rows = self._timed(block, "kernels")
            self._add_device(rows, MEMSET, ["Memset"] * len(rows), 7)

    def _add_device(self, rows: list[Row], category: int, names: list[str], nbytes: int = -1) -> None:
        for pid, members in by_process(rows, 2).items():
            process = self._process(pid)
            table = [rows[i] for i in members]
            columns = {
                name: np.array([whole(r[at]) for r in table], dtype=np.int64)
                for at, name in ((0, "start"), (3, "device"), (4, "stream"), (5, "correlation"))
            }
            end = np.array([r[1] for r in table], dtype=np.int64)
            absent = np.full(len(table), -1)
            process.device.add(
                category=np.full(len(table), category),
                name=np.array([self.names.number(names[i]) for i in members]),
                duration=end - columns["start"],
                external=absent,
                call=absent,
                bytes=np.array([whole(r[nbytes]) for r in table], dtype=np.int64) if nbytes >= 0 else absent,
                **{**columns, "start": columns["start"] + self.epoch},
            )
            process.kernels += len(table)
            for device in columns["device"].tolist():
                process.devices[device] = process.devices.get(device, 0) + 1

    def _read_calls(self) -> None:
        for table in _CALLS:
            for block in self.export.blocks(table, ["start", "globalTid", "correlationId", "end"]):
                rows = [r for r in block if 0 <= whole(r[0]) < _LATEST and whole(r[2]) >= 0]
                for pid, members in by_process(rows, 1).items():
                    part = [rows[i] for i in members]
                    self._process(pid).launches.add(
                        start=np.array([r[0] for r in part], dtype=np.int64) + self.epoch,
                        duration=np.array([whole(r[3]) - r[0] if whole(r[3]) >= r[0] else -1 for r in part]),
                        thread=np.array([self.threads.number(r[1]) for r in part], dtype=np.int64),
                        correlation=np.array([r[2] for r in part], dtype=np.int64),
                    )

    def _read_ranges(self) -> None:
        domains = {
            (process_of(r[1]), r[2]): self.export.text(r[3] if r[3] is not None else r[4])
            for r in self.export.rows(_RANGES, ["eventType", "globalTid", "domainId", "text", "textId"])
            if r[0] == _DOMAIN
        }
        payloads = Payloads(self.export.rows)
        wanted = [
            "start",
            "end",
            "eventType",
            "globalTid",
            "text",
            "textId",
            "domainId",
            "binaryData",
            "jsonText",
            "jsonTextId",
        ]
        for block in self.export.blocks(_RANGES, wanted):
            # Exports before event types have ranges only.
            ranges = [r for r in block if r[2] in (_PUSH_POP, _START_END, None)]
            self.notes.add("events", DROPPED, "NVTX marks, names and domains: no ranges", len(block) - len(ranges))
            self._add_ranges(self._timed(ranges, "ranges"), domains, payloads)
        self.notes.add("collectives", NOTED, "have a payload that cannot be read", payloads.unreadable)

    def _add_ranges(self, rows: list[Row], domains: dict[tuple[int, object], str], payloads: Payloads) -> None:
        for pid, members in by_process(rows, 3).items():
            process = self._process(pid)
            columns: dict[str, list[int]] = {name: [] for name in HOST}
            for index in members:
                start, end, _, thread, text, text_id, domain, binary, text_json, json_id = rows[index]
                name = self.export.text(text if text is not None else text_id)
                category, sequence, signature = RANGE, -1, -1
                if _FRAMEWORK.search(name):
                    name, sequence, signature = self._emitted(name)
                    category = RANGE if _RECORDED_RANGE.search(name) or range_rule(name) else OPERATOR
                if domains.get((pid, domain)) == "NCCL" or is_communication(name):
                    payload = payloads.read(binary, text_json if text_json is not None else self.export.text(json_id))
                    self._note_communicator(pid, payload)
                    number = self._call(name, payload)
                    if number > 0:
                        process.calls[process.hosts + len(columns["start"])] = number
                values = (
                    category,
                    self.names.number(name),
                    self.threads.number(thread),
                    start + self.epoch,
                    end - start,
                    sequence,
                    signature,
                    -1,
                )
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
            process.host.add(**{name: np.array(values, dtype=np.int64) for name, values in columns.items()})
            process.hosts += len(members)

    def _emitted(self, text: str) -> tuple[str, int, int]:
        """Name, sequence number and signature of an operator that PyTorch marked with NVTX."""
        match = _EMITTED.match(text)
        if match is None:
            return text, -1, -1
        sizes = match[3]
        signature = self.signatures.number((sizes.encode(), b"", b"")) if sizes else -1
        return match[1], whole(int(match[2] or -1)), signature

    def _note_communicator(self, pid: int, payload: Payload) -> None:
        """What the call that makes a communicator says: its size, and this process's place in it."""
        size, place = _field(payload, "no. of ranks"), _field(payload, "rank")
        if size > 0 and 0 <= place < size and _group(payload):
            self.communicators.setdefault(_group(payload), {})[pid] = (place, size)

    def _groups(self, ranks: Mapping[int, int]) -> dict[str, tuple[int, ...]]:
        """Ranks of the communicators all of whose members are in the report, in NCCL's order."""
        groups = {}
        for group, members in self.communicators.items():
            placed = sorted((place, ranks[pid]) for pid, (place, _) in members.items() if pid in ranks)
            if placed and all(size == len(placed) for _, size in members.values()):
                groups[group] = tuple(rank for _, rank in placed)
        return groups

    def _call(self, name: str, payload: Payload) -> int:
        op = collective_op(name)
        if not op:
            return -1
        return self.called.number(Call(op, bytes=max(0, _field(payload, "size")), group=_group(payload)))

    def _process(self, pid: int) -> _Process:
        return self.processes.setdefault(pid, _Process())


def _field(payload: Payload, word: str) -> int:
    """The whole number of the field whose name begins with a word or has it in it, -1 without one."""
    exact = [v for k, v in payload.items() if k.lower() == word]
    return whole(next(iter(exact or [v for k, v in payload.items() if word in k.lower()]), None))


def _group(payload: Payload) -> str:
    """A name of a communicator, of 64 bits."""
    number = next((v for k, v in payload.items() if "communicator" in k.lower() and isinstance(v, int)), None)
    return "" if number is None else f"{number:#x}"
