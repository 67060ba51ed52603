"""What the index says of its files, beside what is there now."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import duckdb
import pyarrow as pa
import pyarrow.fs as pafs

from vtrain_schemas.layout import RUN_PREFIX, TABLE_PREFIX
from vtrain_schemas.views import quote
from vtrain_sim.catalog.places import open_place
from vtrain_sim.catalog.scan import ProfileFile, judge
from vtrain_sim.errors import UserError

# Why a file that was there once is not read; it is again once it is back.
GONE = "gone: it was there when it was added"
_LISTED_RUNS = 8
# Columns of the index: name, type, attribute of `ProfileFile`, meaning.
_COLUMNS = (
    ("run_id", pa.string(), "run_id", "run that the file belongs to"),
    ("table_name", pa.string(), "table", "profile table"),
    ("rank", pa.int32(), "rank", "global rank; of many ranks the lowest"),
    ("part", pa.int32(), "part", "part of the rank's rows, from 0"),
    ("path", pa.string(), "path", "where the file is"),
    ("remote", pa.bool_(), "remote", "not on a local disk"),
    ("rows", pa.int64(), "rows", "rows"),
    ("bytes", pa.int64(), "bytes", "size, bytes"),
    ("modified_ns", pa.int64(), "modified_ns", "modification time, ns since the Unix epoch"),
    ("schema_version", pa.string(), "schema_version", "schema that it was written with"),
    ("problem", pa.string(), "problem", "why it is not indexed; empty for a usable file"),
    ("last_rank", pa.int32(), "last_rank", "highest global rank that it has rows of"),
    ("ranks", pa.int32(), "ranks", "number of ranks that it has rows of"),
    ("columns", pa.string(), "columns", "known columns that it lacks (-name), and others that it has (+name)"),
    ("merged", pa.bool_(), "merged", "it was made of several files"),
)
_SQL_TYPES = {"string": "VARCHAR", "int32": "INTEGER", "int64": "BIGINT", "bool": "BOOLEAN"}
_NAMES = ", ".join(name for name, *_ in _COLUMNS)
_VALUES = attrgetter(*(attribute for _, _, attribute, _ in _COLUMNS))


@dataclass(frozen=True)
class Changes:
    """What became of the indexed files. usable: those to read, as they are now.

    gone: no longer there. altered: of another size or time than recorded, as they are now. returned: recorded as gone,
    but there. unusable: by path, why a file is not read that was usable when it was added. as_recorded: the index says
    so too. unreachable: remote places that did not answer; their files count as gone.
    """

    usable: tuple[ProfileFile, ...]
    gone: tuple[ProfileFile, ...]
    altered: tuple[ProfileFile, ...]
    returned: tuple[ProfileFile, ...]
    unusable: dict[str, str]
    as_recorded: bool
    unreachable: tuple[str, ...]


def create(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the index in a new catalog, or what it lacks in one of an older version."""
    columns = [(name, _SQL_TYPES[str(kind)], meaning) for name, kind, _, meaning in _COLUMNS]
    listed = ", ".join(f"{name} {kind}{' PRIMARY KEY' * (name == 'path')}" for name, kind, _ in columns)
    connection.execute(f"CREATE TABLE IF NOT EXISTS files ({listed})")
    if lacking := _lacking(connection):
        for name, kind, _ in columns:
            connection.execute(f"ALTER TABLE files ADD COLUMN IF NOT EXISTS {name} {kind}")
        connection.execute(f"UPDATE files SET {', '.join(f'{name} = {value}' for name, value in lacking.items())}")
    connection.execute("COMMENT ON TABLE files IS 'every file that was added, usable or not'")
    for name, _, meaning in columns:
        connection.execute(f"COMMENT ON COLUMN files.{name} IS {quote(meaning)}")


def complete(connection: duckdb.DuckDBPyConnection) -> None:
    """Hide the index of an older version, which cannot be changed here, by a temporary one with what it lacks.

    Raises `duckdb.CatalogException` where there is no index.
    """
    if lacking := _lacking(connection):
        added = ", ".join(f"{value} AS {name}" for name, value in lacking.items())
        ((name,),) = connection.execute("SELECT replace(current_database(), '\"', '\"\"')").fetchall()
        connection.execute(f'CREATE OR REPLACE TEMPORARY VIEW files AS SELECT *, {added} FROM "{name}".main.files')


def _lacking(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Columns that an index of an older version has not, and their values: a file was of one rank then."""
    there = {column[0] for column in connection.execute("DESCRIBE files").fetchall()}
    values = {"last_rank": "rank", "ranks": "1", "columns": "NULL::VARCHAR", "merged": "false"}
    return {name: value for name, value in values.items() if name not in there}


def recorded(connection: duckdb.DuckDBPyConnection, below: str = "") -> list[ProfileFile]:
    """Every file of the index, or those below a directory, by path; see `complete` for one of an older version."""
    rows = connection.execute(
        f"SELECT {_NAMES} FROM files WHERE starts_with(path, ?) ORDER BY path", [below]
    ).fetchall()
    return [ProfileFile(*row) for row in rows]


def record(connection: duckdb.DuckDBPyConnection, files: Sequence[ProfileFile]) -> None:
    """Add files to the list, or replace what the list says of them."""
    if not files:
        return
    schema = pa.schema([(name, kind) for name, kind, *_ in _COLUMNS])
    values = zip(*map(_VALUES, files), strict=True)
    columns = [pa.array(column, field.type) for column, field in zip(values, schema, strict=True)]
    connection.register("files_to_record", pa.table(columns, schema=schema))
    connection.execute(f"INSERT OR REPLACE INTO files ({_NAMES}) SELECT {_NAMES} FROM files_to_record")
    connection.unregister("files_to_record")


def forget(connection: duckdb.DuckDBPyConnection, files: Sequence[ProfileFile]) -> None:
    """Take files off the list."""
    if not files:
        return
    connection.register("files_to_forget", pa.table({"path": [file.path for file in files]}))
    connection.execute("DELETE FROM files WHERE path IN (SELECT path FROM files_to_forget)")
    connection.unregister("files_to_forget")


def changes(files: Sequence[ProfileFile], remote: bool = True) -> Changes:
    """Compare the index with what is there. remote: look at remote files too, else they count as there."""
    unreachable: list[str] = []
    now = _sizes_and_times(files, remote, unreachable)
    there = [f for f in files if f.path in now]
    gone = tuple(f for f in files if f.path not in now)
    altered = tuple(
        judged for f in there if now[f.path] != (f.bytes, f.modified_ns) and (judged := judge(f.path)) is not None
    )
    returned = tuple(f._replace(problem="") for f in there if f.problem == GONE)
    unusable = {f.path: GONE for f in gone if f.problem in ("", GONE)}
    usable_before = {f.path for f in files if f.problem in ("", GONE)}
    unusable |= {f.path: f.problem for f in altered if f.problem and f.path in usable_before}
    # Files are read together by what is known of their columns.
    anew = {f.path: f for f in altered}
    read_before = [f for f in (*there, *returned) if not f.problem and f.path not in unusable]
    usable = tuple(anew.get(f.path, f) for f in read_before)
    back = tuple(f for f in returned if f.path not in unusable)
    alike = all(_read_as(old) == _read_as(new) for old, new in zip(read_before, usable, strict=True))
    as_recorded = alike and not back and all(f.problem for f in files if f.path in unusable)
    return Changes(usable, gone, altered, back, unusable, as_recorded, tuple(unreachable))


def _read_as(file: ProfileFile) -> tuple[str, str | None]:
    return file.schema_version, file.columns


def _sizes_and_times(files: Sequence[ProfileFile], remote: bool, unreachable: list[str]) -> dict[str, tuple[int, int]]:
    """Bytes and modification time of the files that are there. unreachable: takes in places that do not answer."""
    now = {}
    for file in files:
        if file.remote:
            continue
        try:
            status = os.stat(file.path)
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            now[file.path] = (status.st_size, status.st_mtime_ns)
    # An object store lists a directory faster than it answers for each file.
    directories: dict[str, str] = {}
    for file in files:
        if file.remote and remote:
            path, _, query = file.path.partition("?")
            run, where = path.rpartition(f"/{TABLE_PREFIX}")[0], path.rpartition(f"/{RUN_PREFIX}")[0]
            directories[run + (f"?{query}" if query else "")] = where
        elif file.remote:
            now[file.path] = (file.bytes, file.modified_ns)
    for directory, where in directories.items():
        answer = _below(directory)
        if answer is None and where not in unreachable:
            unreachable.append(where)
        now |= answer or {}
    return now


def _below(directory: str) -> dict[str, tuple[int, int]] | None:
    """Bytes and modification time of what is below a URI; None where it does not answer."""
    try:
        place, path = open_place(directory)
        infos = place.filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True, recursive=True))
    except (OSError, UserError):
        return None
    return {place.name(i.path): (int(i.size or 0), int(i.mtime_ns or 0)) for i in infos if i.is_file}


def left_out(files: Sequence[ProfileFile], found: Changes) -> list[str]:
    """A sentence per run whose files are not read though they were usable when they were added."""
    runs = {f.path: f.run_id for f in files}
    lost = Counter(runs[path] for path in found.unusable)
    total = Counter(runs.values())
    sentences = [
        f"run {run}: {count} of {total[run]} files are gone or damaged and left out; vtrain-catalog check names them"
        for run, count in sorted(lost.items())
    ]
    more = len(sentences) - _LISTED_RUNS
    return [*sentences[:_LISTED_RUNS], *([f"and files of {more} more runs"] if more > 0 else [])]
