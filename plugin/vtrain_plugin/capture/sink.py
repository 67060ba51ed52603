"""Rows -> Parquet. A file is whole or absent; a failed write never reaches training."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from vtrain_plugin.capture.rows import Row
from vtrain_plugin.capture.storage import Storage
from vtrain_schemas import arrow_schema
from vtrain_schemas.layout import CAPTURE_PREFIX, RUN_PREFIX, TABLE_PREFIX, file_path, trace_path
from vtrain_schemas.merged import Replaced, replaced_metadata

# What is in memory at once where parts are merged.
_ROWS_OF_A_GROUP = 100_000


class Sink:
    """Writes the tables of one rank of one run.

    out: as for `Storage`. pause: called between columns, and between row groups where parts are merged.
    """

    def __init__(self, out: str, run_id: str, rank: int, pause: Callable[[], object] = lambda: None) -> None:
        self.run_id = run_id
        self.rank = rank
        self._pause = pause
        self._storage = Storage(out)
        self._parts: dict[str, list[Replaced]] = {}

    def write(self, table: str, rows: list[Row], more: bool = False) -> None:
        """Write rows of `table`: all of them or, where `more` are to come or came before, the next part.

        Whatever becomes of the process, a part is a whole file. Raises OSError where the disk refuses.
        """
        if not rows:
            return
        schema = arrow_schema(table)
        columns = {}
        for field in schema:
            columns[field.name] = pa.array([row.get(field.name) for row in rows], field.type)
            self._pause()
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.table(columns, schema=schema), buffer, compression="zstd", row_group_size=_ROWS_OF_A_GROUP)
        data = buffer.getvalue()
        parts = self._parts.get(table, [])
        if not more and not parts:
            self._storage.store(file_path(self.run_id, table, self.rank), data)
            return
        path = file_path(self.run_id, table, self.rank, len(parts))
        self._storage.store(path, data)
        self._parts[table] = [*parts, Replaced(path.rpartition("/")[2], data.size)]

    def merge(self) -> None:
        """Make one file of the parts of each table.

        Memory: one row group. After an exception the parts are still there, or a merged file that says that it holds
        them. Raises OSError where the disk refuses.
        """
        while self._parts:
            table, parts = next(iter(self._parts.items()))
            self._merge(table, parts)
            del self._parts[table]

    def _merge(self, table: str, parts: list[Replaced]) -> None:
        path = file_path(self.run_id, table, self.rank)
        folder = path.rpartition("/")[0]
        schema = arrow_schema(table)
        schema = schema.with_metadata({**schema.metadata, **replaced_metadata(parts)})
        with (
            self._storage.writing(path) as stream,
            pq.ParquetWriter(stream, schema, compression="zstd") as writer,
        ):
            for part in parts:
                with self._storage.reading(f"{folder}/{part.name}") as source:
                    file = pq.ParquetFile(source)
                    for group in range(file.num_row_groups):
                        # In this thread: training needs the other cores.
                        writer.write_table(file.read_row_group(group, use_threads=False))
                        self._pause()
        for part in parts:
            self._storage.remove(f"{folder}/{part.name}")

    def write_trace(self, step: int, write: Callable[[str], None]) -> None:
        """Put a step's trace beside the tables. write: writes it to a local path. Raises OSError."""
        filesystem = self._storage.filesystem
        path = f"{self._storage.root}/{trace_path(self.run_id, self.rank, step)}"
        folder, _, name = path.rpartition("/")
        filesystem.create_dir(folder, recursive=True)
        if self._storage.local:
            hidden = f"{folder}/.{name}.{os.getpid()}.tmp"
            write(hidden)
            os.replace(hidden, path)
            return
        with tempfile.TemporaryDirectory(prefix="vtrain-") as local:
            write(f"{local}/{name}")
            pafs.copy_files(f"{local}/{name}", path, pafs.LocalFileSystem(), filesystem)


def claim_run_id(out: str, wanted: str, capture: str) -> str:
    """The run id under which a capture may write: `wanted`, or another where an earlier capture has that one.

    capture: the name that the ranks of this capture, and no others, have in common; the answer is the same for
    all of them. Raises OSError where the disk refuses.
    """
    storage = Storage(out)
    if _take(storage, f"{storage.root}/{RUN_PREFIX}{wanted}", capture):
        return wanted
    return f"{wanted[: 99 - len(capture)]}-{capture}"


def _take(storage: Storage, folder: str, capture: str) -> bool:
    """Mark a run's directory as that of a capture; False where it is another's."""
    filesystem = storage.filesystem
    # First, since listing a directory that another rank makes meanwhile may fail.
    filesystem.create_dir(folder, recursive=True)
    owner = _owner(filesystem, folder)
    if owner is None:
        mark = _mark_local if storage.local else _mark
        mark(filesystem, folder, capture)
        owner = _owner(filesystem, folder)
    return owner == capture


def _owner(filesystem: pafs.FileSystem, folder: str) -> str | None:
    """The capture that a directory belongs to: that of the oldest mark; "" for one without, None for nobody's."""
    entries = filesystem.get_file_info(pafs.FileSelector(folder))
    marks = [entry for entry in entries if entry.base_name.startswith(CAPTURE_PREFIX)]
    if marks:
        first = min(marks, key=lambda entry: (entry.mtime_ns or 0, entry.base_name))
        return str(first.base_name[len(CAPTURE_PREFIX) :])
    return "" if any(entry.base_name.startswith(TABLE_PREFIX) for entry in entries) else None


def _mark(filesystem: pafs.FileSystem, folder: str, capture: str) -> None:
    with filesystem.open_output_stream(f"{folder}/{CAPTURE_PREFIX}{capture}"):
        pass


def _mark_local(filesystem: pafs.FileSystem, folder: str, capture: str) -> None:
    """Only one capture succeeds: times of files are too coarse to tell which of two came first."""
    lock = f"{folder}/.owner.lock"
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        # Another rank is about to; of this capture or another.
        deadline = time.monotonic() + 5
        while _owner(filesystem, folder) is None and time.monotonic() < deadline:
            time.sleep(0.005)
        return
    _mark(filesystem, folder, capture)
