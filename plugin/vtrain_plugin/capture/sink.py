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
from vtrain_schemas import arrow_schema
from vtrain_schemas.layout import CAPTURE_PREFIX, RUN_PREFIX, TABLE_PREFIX, file_path, trace_path


class Sink:
    """Writes the tables of one rank of one run.

    out: a local directory or a URI that pyarrow (or, failing that, fsspec) can open. pause: called between columns.
    Each `write` makes one new part; parts of a killed process are whole files.
    """

    def __init__(self, out: str, run_id: str, rank: int, pause: Callable[[], object] = lambda: None) -> None:
        self.run_id = run_id
        self.rank = rank
        self._pause = pause
        self._filesystem, self._root = _open_filesystem(out)
        self._parts: dict[str, int] = {}

    def write(self, table: str, rows: list[Row]) -> None:
        """Write rows as the next part of `table`. Raises OSError where the disk refuses."""
        if not rows:
            return
        schema = arrow_schema(table)
        columns = {}
        for field in schema:
            columns[field.name] = pa.array([row.get(field.name) for row in rows], field.type)
            self._pause()
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.table(columns, schema=schema), buffer, compression="zstd")
        part = self._parts.get(table, 0)
        path = f"{self._root}/{file_path(self.run_id, table, self.rank, part or None)}"
        self._store(path, buffer.getvalue())
        self._parts[table] = part + 1

    def write_trace(self, step: int, write: Callable[[str], None]) -> None:
        """Put a step's trace beside the tables. write: writes it to a local path. Raises OSError."""
        path = f"{self._root}/{trace_path(self.run_id, self.rank, step)}"
        folder, _, name = path.rpartition("/")
        self._filesystem.create_dir(folder, recursive=True)
        if isinstance(self._filesystem, pafs.LocalFileSystem):
            hidden = f"{folder}/.{name}.{os.getpid()}.tmp"
            write(hidden)
            os.replace(hidden, path)
            return
        with tempfile.TemporaryDirectory(prefix="vtrain-") as local:
            write(f"{local}/{name}")
            pafs.copy_files(f"{local}/{name}", path, pafs.LocalFileSystem(), self._filesystem)

    def _store(self, path: str, data: pa.Buffer) -> None:
        folder, _, name = path.rpartition("/")
        self._filesystem.create_dir(folder, recursive=True)
        if not isinstance(self._filesystem, pafs.LocalFileSystem):
            # Object stores show an object only once its upload is complete.
            with self._filesystem.open_output_stream(path) as stream:
                stream.write(data)
            return
        hidden = f"{folder}/.{name}.{os.getpid()}.tmp"
        try:
            with open(hidden, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(hidden, path)
        except OSError:
            try:
                os.unlink(hidden)
            except OSError:
                pass
            raise


def claim_run_id(out: str, wanted: str, capture: str) -> str:
    """The run id under which a capture may write: `wanted`, or another where an earlier capture has that one.

    capture: the name that the ranks of this capture, and no others, have in common; the answer is the same for
    all of them. Raises OSError where the disk refuses.
    """
    filesystem, root = _open_filesystem(out)
    if _take(filesystem, f"{root}/{RUN_PREFIX}{wanted}", capture):
        return wanted
    return f"{wanted[: 99 - len(capture)]}-{capture}"


def _take(filesystem: pafs.FileSystem, folder: str, capture: str) -> bool:
    """Mark a run's directory as that of a capture; False where it is another's."""
    # First, since listing a directory that another rank makes meanwhile may fail.
    filesystem.create_dir(folder, recursive=True)
    owner = _owner(filesystem, folder)
    if owner is None:
        mark = _mark_local if isinstance(filesystem, pafs.LocalFileSystem) else _mark
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


def _open_filesystem(out: str) -> tuple[pafs.FileSystem, str]:
    if "://" not in out:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(out))
    try:
        filesystem, path = pafs.FileSystem.from_uri(out)
        return filesystem, str(path)
    except (pa.ArrowInvalid, NotImplementedError):
        import fsspec

        inner, path = fsspec.core.url_to_fs(out)
        return pafs.PyFileSystem(pafs.FSSpecHandler(inner)), str(path)
