"""Reads an Nsight Systems report that was exported to SQLite: one trace for each process that used a GPU.

Tables are read in blocks through one cursor each. Only the kernel table, or the ranges, must be there:
the exporter leaves out tables without rows, and versions differ in columns.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vtrain_schemas.communication_names import collective_op
from vtrain_schemas.range_names import is_communication, range_rule
from vtrain_sim.errors import UserError
from vtrain_sim.ingest import trace as model
from vtrain_sim.ingest.notes import DROPPED, NOTED, Notes
from vtrain_sim.ingest.nvtx_payloads import Payloads
from vtrain_sim.ingest.trace import Call, Columns, Interned, Trace

_BLOCK = 50_000
# Nanoseconds from any epoch stay below this, and sums of two of them below what 64 bits hold.
_LATEST = 1 << 61
_PUSH_POP, _START_END, _DOMAIN = 59, 60, 75
_KERNELS, _COPIES, _FILLS = "CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_MEMCPY", "CUPTI_ACTIVITY_KIND_MEMSET"
_GRAPHS, _RANGES = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE", "NVTX_EVENTS"
_CALLS = ("CUPTI_ACTIVITY_KIND_RUNTIME", "CUPTI_ACTIVITY_KIND_DRIVER")
# torch.autograd.profiler.emit_nvtx: "aten::mm, seq = 7, op_id = 12, sizes = [[8, 4], [4, 2]]".
_EMITTED = re.compile(r"^(.+?)(?:, seq = (-?\d+))?(?:, op_id = \d+)?(?:, sizes = (\[.*?\]))?(?:, input_op_ids = .*)?$")
# Ranges of record_function carry an operator's id too: their names are no operators'.
_OWN_RANGE = re.compile(r"^(?!autograd::|aten::).*([ #]|^FSDP::)")
_FRAMEWORK = re.compile(
    r"^(aten|autograd|torch|c10d|te|tex|flash_attn|mkldnn|prims|_c10d_functional)::|, (seq|op_id) = "
)


def read_nsys(path: Path, rank: int | None = None) -> list[Trace]:
    """Read a report. rank: that of its first process. Raises `UserError` for what is no such report."""
    try:
        # A copy on a read-only disk, or one that somebody else has open, is read as it lies.
        connection = sqlite3.connect(f"file:{_quoted(path)}?mode=ro&immutable=1", uri=True)
    except sqlite3.Error as error:
        raise UserError(f"cannot open {path}: {error}") from None
    try:
        return _Report(connection, path).traces(rank)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable Nsight Systems export: {error}") from None
    finally:
        connection.close()


def _quoted(path: Path) -> str:
    from urllib.parse import quote

    return quote(str(path.absolute()))


class _Process:
    """Columns of one process."""

    def __init__(self) -> None:
        self.host = Columns(*model.HOST)
        self.hosts = 0
        self.launches = Columns(*model.LAUNCHES)
        self.device = Columns(*model.DEVICE)
        self.kernels = 0
        self.devices: dict[int, int] = {}
        self.calls: dict[int, int] = {}


class _Report:
    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.connection = connection
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        self.columns = {
            name: {row[1] for row in connection.execute(f'PRAGMA table_info("{name}")')}
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
            ).fetchall()
        }
        if not {_KERNELS, _COPIES, _RANGES, _GRAPHS} & set(self.columns):
            raise UserError(
                f"{path} is SQLite but not an Nsight Systems export: it has neither kernels ({_KERNELS}) nor ranges "
                f"({_RANGES})"
            )
        self.notes = Notes()
        self.processes: dict[int, _Process] = {}
        self.names, self.threads, self.signatures, self.called = Interned(), Interned(), Interned(), Interned()
        self.called.number(None)
        # Of each communicator, by process: its place and the number of ranks.
        self.communicators: dict[str, dict[int, tuple[int, int]]] = {}
        self.strings: dict[int, str] = {}
        self.calls: list[Call] = [Call()]
        epoch = _whole(self._one("TARGET_INFO_SESSION_START_TIME", "utcEpochNs"))
        self.epoch = epoch if 0 < epoch < _LATEST else 0

    def traces(self, rank: int | None) -> list[Trace]:
        self._read_kernels()
        self._read_copies()
        self._read_calls()
        self._read_ranges()
        for table in (_KERNELS, _COPIES, *_CALLS, _RANGES):
            if table not in self.columns:
                self.notes.add("files", NOTED, f"has no table {table}: nothing of that kind was traced")
        active = {pid: p for pid, p in self.processes.items() if p.kernels} or self.processes
        for pid in set(self.processes) - set(active):
            self.notes.add("ranges", DROPPED, "of processes that used no GPU", self.processes[pid].hosts)
        ranks = dict(self._rows("MPI_RANKS", ["globalPid", "rank"])) if "MPI_RANKS" in self.columns else {}
        own = {
            pid: _whole(ranks[g]) for g in ranks for pid in active if pid == _pid(g) and 0 <= _whole(ranks[g]) < 1 << 24
        }
        order = sorted(
            active,
            key=lambda pid: (
                own.get(pid, 1 << 30),
                max(active[pid].devices, key=active[pid].devices.__getitem__, default=0),
                pid,
            ),
        )
        if len(set(own.values())) < len(own):
            self.notes.add("processes", NOTED, "have a rank that another has: numbered by GPU instead", len(own))
            own = {}
        if len(order) > 1 and not own:
            self.notes.add("processes", NOTED, "do not say their rank: numbered by GPU, then by process", len(order))
        placed = {pid: own.get(pid, index + (rank or 0)) for index, pid in enumerate(order)}
        groups = self._groups(placed)
        for call in self.called.values[1:]:
            members = groups.get(call.group, ())
            self.calls.append(replace(call, ranks=members, group_size=len(members)))
        found = [
            self._trace(active[pid], placed[pid], len(order), self.notes if index == 0 else Notes())
            for index, pid in enumerate(order)
        ]
        return found or [self._trace(_Process(), rank or 0, 1, self.notes)]

    def _trace(self, process: _Process, rank: int, count: int, notes: Notes) -> Trace:
        gpus = list(self._rows("TARGET_INFO_GPU", ["id", "name", "totalMemory"]))
        used = max(process.devices, key=process.devices.__getitem__, default=0)
        mine = next((g for g in gpus if g[0] == used), gpus[0] if gpus else (0, "", 0))
        host_name = next((v for n, v in self._rows("TARGET_INFO_SYSTEM_ENV", ["name", "value"]) if n == "Hostname"), "")
        nothing = Columns(*model.GPU_RANGES).finish()
        return Trace(
            source="nsys",
            host=process.host.finish(),
            launches=process.launches.finish(),
            device=process.device.finish(),
            gpu_ranges=nothing,
            memory=Columns(*model.MEMORY).finish(),
            names=self.names.values,
            signatures=self.signatures.values,
            host_calls=process.calls,
            calls=self.calls,
            rank=rank,
            world_size=max(count, rank + 1),
            notes=notes,
            host_name=str(host_name or ""),
            device_name=str(mine[1] or ""),
            device_memory=max(0, _whole(mine[2])),
            devices=len(gpus),
            backend="nccl" if any("nccl" in n for n in self.names.numbers) else "",
        )

    # Reading

    def _one(self, table: str, column: str) -> Any:
        return next((row[0] for row in self._rows(table, [column])), None)

    def _rows(self, table: str, wanted: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        return (row for block in self._blocks(table, wanted) for row in block)

    def _blocks(self, table: str, wanted: Sequence[str]) -> Iterator[list[tuple[Any, ...]]]:
        """Rows of a table, None for columns that it lacks; nothing without the table."""
        have = self.columns.get(table)
        if have is None:
            return
        listed = ", ".join(f'"{name}"' if name in have else "NULL" for name in wanted)
        cursor = self.connection.execute(f'SELECT {listed} FROM "{table}"')
        while block := cursor.fetchmany(_BLOCK):
            yield block

    def _text(self, value: Any) -> str:
        """A string by id, or the string itself as older exports wrote it."""
        if not isinstance(value, int):
            return "" if value is None else str(value)
        found = self.strings.get(value)
        if found is None:
            row = (
                self.connection.execute("SELECT value FROM StringIds WHERE id = ?", [value]).fetchone()
                if ("StringIds" in self.columns)
                else None
            )
            found = str(row[0]) if row is not None else ""
            self.strings[value] = found
        return found

    def _timed(self, rows: list[tuple[Any, ...]], subject: str) -> list[tuple[Any, ...]]:
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
        for block in self._blocks(_KERNELS, wanted):
            rows = self._timed(block, "kernels")
            self._add_device(
                rows, model.KERNEL, [self._text(next((v for v in r[6:9] if v is not None), None)) for r in rows]
            )
        wanted = ["start", "end", "globalPid", "deviceId", "streamId", "correlationId", "graphId"]
        for block in self._blocks(_GRAPHS, wanted):
            rows = self._timed(block, "kernels")
            reason = "are whole CUDA graphs (--cuda-graph-trace=graph): their kernels are not in the report"
            self.notes.add("kernels", NOTED, reason, len(rows))
            self._add_device(rows, model.KERNEL, [f"CUDA graph {r[6]}" for r in rows])

    def _read_copies(self) -> None:
        labels = dict(self._rows("ENUM_CUDA_MEMCPY_OPER", ["id", "label"]))
        wanted = ["start", "end", "globalPid", "deviceId", "streamId", "correlationId", "copyKind", "bytes"]
        for block in self._blocks(_COPIES, wanted):
            rows = self._timed(block, "kernels")
            self._add_device(rows, model.MEMCPY, [f"Memcpy {labels.get(r[6]) or f'kind {r[6]}'}" for r in rows], 7)
        for block in self._blocks(_FILLS, [*wanted[:6], "value", "bytes"]):
            rows = self._timed(block, "kernels")
            self._add_device(rows, model.MEMSET, ["Memset"] * len(rows), 7)

    def _add_device(self, rows: list[tuple[Any, ...]], category: int, names: list[str], nbytes: int = -1) -> None:
        for pid, members in _by_process(rows, 2).items():
            process = self._process(pid)
            table = [rows[i] for i in members]
            columns = {
                name: np.array([_whole(r[at]) for r in table], dtype=np.int64)
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
                bytes=np.array([_whole(r[nbytes]) for r in table], dtype=np.int64) if nbytes >= 0 else absent,
                **{**columns, "start": columns["start"] + self.epoch},
            )
            process.kernels += len(table)
            for device in columns["device"].tolist():
                process.devices[device] = process.devices.get(device, 0) + 1

    def _read_calls(self) -> None:
        for table in _CALLS:
            for block in self._blocks(table, ["start", "globalTid", "correlationId"]):
                rows = [r for r in block if 0 <= _whole(r[0]) < _LATEST and _whole(r[2]) >= 0]
                for pid, members in _by_process(rows, 1).items():
                    part = [rows[i] for i in members]
                    self._process(pid).launches.add(
                        start=np.array([r[0] for r in part], dtype=np.int64) + self.epoch,
                        thread=np.array([self.threads.number(r[1]) for r in part], dtype=np.int64),
                        correlation=np.array([r[2] for r in part], dtype=np.int64),
                    )

    def _read_ranges(self) -> None:
        domains = {
            (_pid(r[1]), r[2]): self._text(r[3] if r[3] is not None else r[4])
            for r in self._rows(_RANGES, ["eventType", "globalTid", "domainId", "text", "textId"])
            if r[0] == _DOMAIN
        }
        payloads = Payloads(self._rows)
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
        for block in self._blocks(_RANGES, wanted):
            # Exports before event types have ranges only.
            ranges = [r for r in block if r[2] in (_PUSH_POP, _START_END, None)]
            self.notes.add("events", DROPPED, "NVTX marks, names and domains: no ranges", len(block) - len(ranges))
            self._add_ranges(self._timed(ranges, "ranges"), domains, payloads)
        self.notes.add("collectives", NOTED, "have a payload that cannot be read", payloads.unreadable)

    def _add_ranges(self, rows: list[tuple[Any, ...]], domains: dict[tuple[int, Any], str], payloads: Payloads) -> None:
        for pid, members in _by_process(rows, 3).items():
            process = self._process(pid)
            columns: dict[str, list[int]] = {name: [] for name in model.HOST}
            for index in members:
                start, end, _, thread, text, text_id, domain, binary, text_json, json_id = rows[index]
                name = self._text(text if text is not None else text_id)
                category, sequence, signature = model.RANGE, -1, -1
                if _FRAMEWORK.search(name):
                    name, sequence, signature = self._emitted(name)
                    category = model.RANGE if _OWN_RANGE.search(name) or range_rule(name) else model.OPERATOR
                if domains.get((pid, domain)) == "NCCL" or is_communication(name):
                    said = payloads.read(binary, text_json if text_json is not None else self._text(json_id))
                    self._note_communicator(pid, said)
                    number = self._call(name, said)
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
        found = _EMITTED.match(text)
        if found is None:
            return text, -1, -1
        sizes = found[3]
        signature = self.signatures.number((sizes.encode(), b"", b"")) if sizes else -1
        return found[1], _whole(int(found[2] or -1)), signature

    def _note_communicator(self, pid: int, said: dict[str, Any]) -> None:
        """What the call that makes a communicator says: its size, and this process's place in it."""
        size, place = _field(said, "no. of ranks"), _field(said, "rank")
        if size > 0 and 0 <= place < size and _group(said):
            self.communicators.setdefault(_group(said), {})[pid] = (place, size)

    def _groups(self, ranks: dict[int, int]) -> dict[str, tuple[int, ...]]:
        """Ranks of the communicators all of whose members are in the report, in NCCL's order."""
        found = {}
        for group, members in self.communicators.items():
            placed = sorted((place, ranks[pid]) for pid, (place, _) in members.items() if pid in ranks)
            if placed and all(size == len(placed) for _, size in members.values()):
                found[group] = tuple(rank for _, rank in placed)
        return found

    def _call(self, name: str, said: dict[str, Any]) -> int:
        op = collective_op(name)
        if not op:
            return -1
        return self.called.number(Call(op, bytes=max(0, _field(said, "size")), group=_group(said)))

    def _process(self, pid: int) -> _Process:
        return self.processes.setdefault(pid, _Process())


def _by_process(rows: list[tuple[Any, ...]], column: int) -> dict[int, list[int]]:
    """Rows by the process in their global id; those without one belong to process 0."""
    found: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        found.setdefault(_pid(row[column]), []).append(index)
    return found


def _pid(number: Any) -> int:
    """Process of a serialized global id: 8 bits hardware, 8 virtual machine, 24 process, 24 thread."""
    return (number >> 24) & 0xFFFFFF if isinstance(number, int) else 0


def _field(said: dict[str, Any], word: str) -> int:
    """The whole number of the field whose name begins with a word or has it in it, -1 without one."""
    exact = [v for k, v in said.items() if k.lower() == word]
    return _whole(next(iter(exact or [v for k, v in said.items() if word in k.lower()]), None))


def _group(said: dict[str, Any]) -> str:
    """A name of a communicator, of 64 bits."""
    number = next((v for k, v in said.items() if "communicator" in k.lower() and isinstance(v, int)), None)
    return "" if number is None else f"{number:#x}"


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and -(1 << 62) < value < 1 << 62 else -1
