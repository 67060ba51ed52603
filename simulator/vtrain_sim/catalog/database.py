"""The DuckDB side: the list of files, the tables as views over them, and safe connections."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads

from vtrain_schemas import TABLES, arrow_schema
from vtrain_schemas.views import VIEW_ORDER, create_statements, views
from vtrain_sim.catalog.errors import CatalogError
from vtrain_sim.catalog.files import changes, left_out, recorded
from vtrain_sim.catalog.scan import ProfileFile, open_filesystem
from vtrain_sim.errors import Notice, UserError

# Where a DuckDB file says what it is.
_MAGIC, _MAGIC_AT = b"DUCK", 8
# Its headers: without all of them there is nothing in it.
_SMALLEST = 3 * 4096
# How long to wait for a catalog that somebody else writes or reads, and what DuckDB says then.
WAIT_S = 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5
_IN_USE = ("Could not set lock on file", "different configuration")
_FILES = """
CREATE TABLE IF NOT EXISTS files (
    run_id VARCHAR, table_name VARCHAR, rank INTEGER, part INTEGER, path VARCHAR PRIMARY KEY,
    remote BOOLEAN, rows BIGINT, bytes BIGINT, modified_ns BIGINT, schema_version VARCHAR,
    problem VARCHAR
)
"""
_CONFINING = Lock()
# The order matters: the last one locks the others.
_CONFINED = {
    "temp_directory": "''",
    # Variables of the Python program are no tables.
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "enable_external_access": "false",
    "lock_configuration": "true",
}
_COMMENTS = {
    "run_id": "run that the file belongs to",
    "table_name": "profile table",
    "rank": "global rank",
    "part": "part of the rank's rows, from 0",
    "path": "where the file is",
    "remote": "not on a local disk",
    "rows": "rows",
    "bytes": "size, bytes",
    "modified_ns": "modification time, ns since the Unix epoch",
    "schema_version": "schema that it was written with",
    "problem": "why it is not indexed; empty for a usable file",
}


def quote(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def begin(connection: duckdb.DuckDBPyConnection) -> None:
    """Begin a transaction, in which a new catalog gets what it holds; closing the connection instead undoes it."""
    connection.begin()
    create(connection)


def create(connection: duckdb.DuckDBPyConnection) -> None:
    """Create what a new catalog holds; harmless in an old one."""
    connection.execute(_FILES)
    connection.execute("COMMENT ON TABLE files IS 'every file that was added, usable or not'")
    for column, meaning in _COMMENTS.items():
        connection.execute(f"COMMENT ON COLUMN files.{column} IS {quote(meaning)}")


def create_views(connection: duckdb.DuckDBPyConnection, usable: Sequence[ProfileFile]) -> None:
    """(Re)create the profile tables over those of the usable files that are local, and the documented views."""
    for name, table in TABLES.items():
        local = _paths(usable, name, remote=False)
        connection.execute(f"CREATE OR REPLACE VIEW {name} AS {_table_query(name, local)}")
        connection.execute(f"COMMENT ON VIEW {name} IS {quote('one row is ' + table.row)}")
        for column in table.columns:
            meaning = column.doc + (f", {column.unit}" if column.unit else "")
            connection.execute(f"COMMENT ON COLUMN {name}.{column.name} IS {quote(meaning)}")
    for view in views():
        for statement in create_statements(view):
            connection.execute(statement)


def _paths(usable: Sequence[ProfileFile], table: str, remote: bool) -> list[str]:
    """Paths of a table's files. Every rank describes its run: the description of the lowest one is taken."""
    files = [f for f in usable if f.table == table and f.remote == remote]
    if table == "runs":
        lowest: dict[str, int] = {}
        for file in files:
            lowest[file.run_id] = min(file.rank, lowest.get(file.run_id, file.rank))
        files = [f for f in files if f.rank == lowest[f.run_id]]
    return sorted(f.path for f in files)


def _table_query(name: str, paths: list[str]) -> str:
    columns = ", ".join(f'"{c}"' for c in TABLES[name].column_names)
    # An empty relation with all columns: what an older file lacks becomes null.
    empty = ", ".join(f'NULL::{_sql_type(f.type)} AS "{f.name}"' for f in arrow_schema(name))
    query = f"SELECT {empty} WHERE false"
    if paths:
        listed = ", ".join(quote(p) for p in paths)
        read = f"SELECT * FROM read_parquet([{listed}], union_by_name = true, hive_partitioning = false)"
        query = f"{query} UNION ALL BY NAME {read}"
    return f"SELECT {columns} FROM ({query})"


def _sql_type(type_: pa.DataType) -> str:
    if pa.types.is_list(type_):
        return _sql_type(type_.value_type) + "[]"
    names = {
        "int16": "SMALLINT",
        "int32": "INTEGER",
        "int64": "BIGINT",
        "double": "DOUBLE",
        "string": "VARCHAR",
        "bool": "BOOLEAN",
    }
    return names[str(type_)]


@contextmanager
def connect(path: Path, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a catalog file; a file that is not one is refused with a sentence.

    DuckDB lets in one writer or several readers: whoever comes second waits, up to `WAIT_S` seconds.
    """
    _check_kind(path)
    connection = _opened(path, read_only)
    try:
        yield connection
    finally:
        connection.close()


def _opened(path: Path, read_only: bool) -> duckdb.DuckDBPyConnection:
    deadline, pause, said = time.monotonic() + WAIT_S, _FIRST_PAUSE_S, False
    while True:
        try:
            return duckdb.connect(str(path), read_only=read_only)
        except duckdb.Error as error:
            first = str(error).splitlines()[0]
        if not any(sign in first for sign in _IN_USE):
            if not read_only and path.exists() and path.stat().st_size < _SMALLEST:
                # A new file on a full disk: what there is of it is in the way of the next attempt.
                path.unlink()
            raise UserError(f"cannot open the catalog {path}: {first}")
        if time.monotonic() > deadline:
            raise UserError(
                f"the catalog {path} has been in use by another program for {WAIT_S:g} s: try again later ({first})"
            )
        if pause >= _LONGEST_PAUSE_S and not said:
            warnings.warn(f"the catalog {path} is in use by another program: waiting", Notice, stacklevel=2)
            said = True
        # Several that wait do not come back at the same time.
        time.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def _check_kind(path: Path) -> None:
    """Refuse a file of another kind: DuckDB would read a CSV file as a database in memory."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_MAGIC_AT + len(_MAGIC))
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"cannot open the catalog {path}: {error.strerror}") from None
    if head and head[_MAGIC_AT:] != _MAGIC:
        raise UserError(f"{path} is not a vtrain catalog: vtrain-catalog add DIR --catalog FILE makes one")


@contextmanager
def connect_confined(path: Path, memory: str = "") -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a catalog for other people's SQL: read-only, and no reach beyond the indexed files.

    memory: limit, as DuckDB writes it; beyond it a query fails, as nothing is written to disk.
    """
    with connect(path, read_only=True) as connection:
        try:
            files = recorded(connection)
        except duckdb.CatalogException:
            raise UserError(f"{path} is a DuckDB file but not a vtrain catalog") from None
        found = changes(files)
        for lost in left_out(files, found):
            warnings.warn(lost, Notice, stacklevel=2)
        present = {name for (name,) in connection.execute("SELECT view_name FROM duckdb_views()").fetchall()}
        # A catalog of an older version lacks what came later, and is read-only here.
        complete = present.issuperset((*TABLES, *VIEW_ORDER))
        if not (complete and found.as_recorded) or any(f.remote for f in found.usable):
            _shadow(connection, found.usable)
        with _CONFINING:
            _confine(connection, [f.path for f in found.usable if not f.remote], memory)
        yield connection


def _confine(connection: duckdb.DuckDBPyConnection, files: list[str], memory: str) -> None:
    """Take away from a connection, for good, everything but reading these files.

    Connections of one process to one catalog share their settings: the first one sets them, and as nobody writes while
    somebody reads, they are right for the others.
    """
    ((locked,),) = connection.execute("SELECT current_setting('lock_configuration')").fetchall()
    if locked:
        return
    if memory:
        try:
            connection.execute(f"SET memory_limit = {quote(memory)}")
        except duckdb.Error:
            raise CatalogError(f"the memory limit is {memory!r}: write 4GB, 500MB or 50%") from None
    listed = ", ".join(quote(p) for p in files)
    connection.execute(f"SET allowed_paths = [{listed}]")
    for name, value in _CONFINED.items():
        connection.execute(f"SET {name} = {value}")


def _shadow(connection: duckdb.DuckDBPyConnection, usable: Sequence[ProfileFile]) -> None:
    """Temporary views that hide the persistent ones; they read remote files through Arrow."""
    for name in TABLES:
        remote = _paths(usable, name, remote=True)
        query = _table_query(name, _paths(usable, name, remote=False))
        if remote:
            filesystem, _, _ = open_filesystem(remote[0])
            inner = [open_filesystem(path)[1] for path in remote]
            dataset = pads.dataset(inner, schema=arrow_schema(name), format="parquet", filesystem=filesystem)
            connection.register(f"remote_{name}", dataset)
            query = f"{query} UNION ALL BY NAME SELECT * FROM remote_{name}"
        connection.execute(f"CREATE OR REPLACE TEMPORARY VIEW {name} AS {query}")
    for view in views():
        for statement in create_statements(view, temporary=True):
            connection.execute(statement)
