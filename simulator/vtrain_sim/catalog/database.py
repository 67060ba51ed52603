"""Connections to a catalog: waiting for one's turn, and confined for other people's SQL."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import duckdb

from vtrain_schemas import TABLES
from vtrain_schemas.views import VIEW_ORDER, quote
from vtrain_sim.catalog.errors import CatalogError
from vtrain_sim.catalog.files import changes, complete, create, left_out, recorded
from vtrain_sim.catalog.table_views import path_list, shadow
from vtrain_sim.errors import Notice, UserError

# Where a DuckDB file says what it is.
_MAGIC, _MAGIC_AT = b"DUCK", 8
# Its headers: without all of them there is nothing in it.
_SMALLEST = 3 * 4096
# How long to wait for a catalog that somebody else writes or reads, and what DuckDB says then.
WAIT_S = 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5
_IN_USE = ("Could not set lock on file", "different configuration")
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


def begin(connection: duckdb.DuckDBPyConnection) -> None:
    """Begin a transaction, in which a new catalog gets what it holds; closing the connection instead undoes it."""
    connection.begin()
    create(connection)


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
            complete(connection)
        except duckdb.CatalogException:
            raise UserError(f"{path} is a DuckDB file but not a vtrain catalog") from None
        files = recorded(connection)
        found = changes(files)
        for lost in left_out(files, found):
            warnings.warn(lost, Notice, stacklevel=2)
        present = {name for (name,) in connection.execute("SELECT view_name FROM duckdb_views()").fetchall()}
        # A catalog of an older version lacks what came later, and is read-only here.
        all_views = present.issuperset((*TABLES, *VIEW_ORDER))
        if not (all_views and found.as_recorded) or any(f.remote for f in found.usable):
            shadow(connection, found.usable)
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
    connection.execute(f"SET allowed_paths = {path_list(files)}")
    for name, value in _CONFINED.items():
        connection.execute(f"SET {name} = {value}")
