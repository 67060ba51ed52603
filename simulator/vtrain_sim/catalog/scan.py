"""Finds the files of runs below a directory or URI, and judges each one."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from vtrain_schemas import TABLES, SchemaVersionError, check_version
from vtrain_schemas.layout import RUN_PREFIX, TABLE_PREFIX, parse_file_name
from vtrain_sim.errors import UserError


@dataclass(frozen=True)
class ProfileFile:
    """One Parquet file of a profile. `problem` is empty for a usable one."""

    run_id: str
    table: str
    rank: int
    part: int
    path: str
    remote: bool
    rows: int
    bytes: int
    modified_ns: int
    schema_version: str
    problem: str


def open_filesystem(where: str) -> tuple[pafs.FileSystem, str, str]:
    """Filesystem, path in it, and prefix that turns a path back into what DuckDB or a user reads."""
    if "://" not in where:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(where)), ""
    scheme = where.partition("://")[0]
    try:
        filesystem, path = pafs.FileSystem.from_uri(where)
    except (pa.ArrowInvalid, NotImplementedError):
        try:
            import fsspec
        except ImportError:
            raise UserError(f"{where} needs the fsspec package: pip install 'vtrain[remote]'") from None
        try:
            inner, path = fsspec.core.url_to_fs(where)
        except (ValueError, ImportError) as error:
            raise UserError(f"cannot open {where}: {error}") from None
        filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(inner))
    if scheme == "file":
        return filesystem, path, ""
    return filesystem, path, f"{scheme}://"


def scan(where: str) -> list[ProfileFile]:
    """Every profile file below `where`; raises `UserError` where there is none."""
    filesystem, root, prefix = open_filesystem(where)
    try:
        info = filesystem.get_file_info(root)
        if info.type == pafs.FileType.NotFound:
            raise UserError(f"there is no directory {where}")
        if info.type == pafs.FileType.File:
            raise UserError(f"{where} is a remote file: traces are read from a local disk, profiles by their directory")
        entries = filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
    except OSError as error:
        raise UserError(f"cannot list {where}: {error}") from None
    # A run directory may itself be given: its own name is then the last part of the root.
    files = [f for e in entries if (f := _judge(filesystem, e, prefix)) is not None]
    if not files:
        raise UserError(f"no profile below {where}: expected {RUN_PREFIX}<id>/{TABLE_PREFIX}<name>/rank=<n>.parquet")
    return files


def judge(path: str) -> ProfileFile | None:
    """One file of a profile as it is now; None where it is none, or not there."""
    filesystem, inner, prefix = open_filesystem(path)
    return _judge(filesystem, filesystem.get_file_info(inner), prefix)


def _judge(filesystem: pafs.FileSystem, info: pafs.FileInfo, prefix: str) -> ProfileFile | None:
    parts = info.path.replace(os.sep, "/").split("/")
    if info.type != pafs.FileType.File or len(parts) < 3:
        return None
    name = parse_file_name(parts[-1])
    if name is None or not parts[-2].startswith(TABLE_PREFIX) or not parts[-3].startswith(RUN_PREFIX):
        return None
    run_id, table = parts[-3][len(RUN_PREFIX) :], parts[-2][len(TABLE_PREFIX) :]
    rows, version, problem = 0, "", ""
    if table not in TABLES:
        problem = f"unknown table {table!r}"
    else:
        try:
            with filesystem.open_input_file(info.path) as stream:
                file = pq.ParquetFile(stream)
                rows = file.metadata.num_rows
                metadata = file.schema_arrow.metadata or {}
                version = metadata.get(b"vtrain.schema_version", b"").decode()
                problem = _schema_problem(table, file.schema_arrow, version)
        except (OSError, pa.ArrowException) as error:
            problem = f"damaged: {str(error).splitlines()[0]}"
    return ProfileFile(
        run_id,
        table,
        name.first_rank,
        name.part or 0,
        prefix + info.path,
        bool(prefix),
        rows,
        int(info.size or 0),
        int(info.mtime_ns or 0),
        version,
        problem,
    )


def _schema_problem(table: str, schema: pa.Schema, version: str) -> str:
    if not version:
        return "has no vtrain.schema_version in its metadata: not written by vtrain"
    try:
        check_version(version, "the file")
    except SchemaVersionError as error:
        return str(error)
    for column in TABLES[table].columns:
        index = schema.get_field_index(column.name)
        if index < 0:
            if not column.nullable:
                return f"lacks the column {column.name!r}"
        elif schema.field(index).type != column.type:
            return f"column {column.name!r} is {schema.field(index).type}, not {column.type}"
    return ""


def read_fully(path: str, rows: int) -> str:
    """Read every page of a file; what is wrong with it, or an empty string. rows: how many it should have."""
    filesystem, inner, _ = open_filesystem(path)
    read = 0
    try:
        with filesystem.open_input_file(inner) as stream:
            file = pq.ParquetFile(stream)
            for batch in file.iter_batches(batch_size=65536):
                read += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        return f"damaged: {str(error).splitlines()[0]}"
    return "" if read == rows else f"has {read:,} rows, but had {rows:,} when it was added"
