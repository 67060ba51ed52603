"""The tables of an Nsight Systems export: versions differ in tables and columns, and values may be of any type."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

from vtrain_sim.errors import UserError

Row: TypeAlias = tuple[Any, ...]  # of SQLite

_BLOCK = 50_000
_NUMBERED = re.compile(r"(.+)_V\d+")


class Export:
    """One export, read in blocks through one cursor per table. columns: by table.

    Some versions number their tables (``NVTX_EVENTS_V2``): these have the plain name here, too.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        self.columns = {
            name: {row[1] for row in connection.execute(f'PRAGMA table_info("{name}")')}
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
            ).fetchall()
        }
        # Of several numbers the highest: they sort as text, as no version has reached ten.
        self._numbered = {
            m[1]: name for name in sorted(self.columns) if (m := _NUMBERED.fullmatch(name)) and m[1] not in self.columns
        }
        self.columns = {**{plain: self.columns[name] for plain, name in self._numbered.items()}, **self.columns}
        self._strings: dict[int, str] = {}

    def value(self, table: str, column: str) -> object:
        """The first value of a column; None without one."""
        return next((row[0] for row in self.rows(table, [column])), None)

    def count(self, table: str) -> int:
        """Rows of a table; 0 without it."""
        if table not in self.columns:
            return 0
        name = self._numbered.get(table, table)
        ((count,),) = self._connection.execute(f'SELECT count(*) FROM "{name}"').fetchall()
        return int(count)

    def rows(self, table: str, wanted: Sequence[str]) -> Iterator[Row]:
        """Rows of a table, None for columns that it lacks; nothing without the table."""
        return (row for block in self.blocks(table, wanted) for row in block)

    def blocks(self, table: str, wanted: Sequence[str]) -> Iterator[list[Row]]:
        """The same, many rows at a time."""
        columns = self.columns.get(table)
        if columns is None:
            return
        listed = ", ".join(f'"{name}"' if name in columns else "NULL" for name in wanted)
        cursor = self._connection.execute(f'SELECT {listed} FROM "{self._numbered.get(table, table)}"')
        while block := cursor.fetchmany(_BLOCK):
            yield block

    def text(self, value: object) -> str:
        """A string by id, or the string itself as older exports wrote it."""
        if not isinstance(value, int):
            return "" if value is None else str(value)
        if value not in self._strings:
            row = None
            if "StringIds" in self.columns:
                row = self._connection.execute("SELECT value FROM StringIds WHERE id = ?", [value]).fetchone()
            self._strings[value] = str(row[0]) if row is not None else ""
        return self._strings[value]


@contextmanager
def open_export(path: Path) -> Iterator[Export]:
    """Open an export. Raises `UserError` for a file that cannot be read as one, also while it is read."""
    try:
        # A copy on a read-only disk, or one that somebody else has open, is read as it lies.
        location = quote(str(path.absolute()))
        connection = sqlite3.connect(f"file:{location}?mode=ro&immutable=1", uri=True)
    except sqlite3.Error as error:
        raise UserError(f"cannot open {path}: {error}") from None
    try:
        yield Export(connection)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable Nsight Systems export: {error}") from None
    finally:
        connection.close()


def whole(value: object) -> int:
    """A whole number, -1 for anything else."""
    return value if isinstance(value, int) and -(1 << 62) < value < 1 << 62 else -1


def process_of(number: object) -> int:
    """Process of a serialized global id: 8 bits hardware, 8 virtual machine, 24 process, 24 thread."""
    return (number >> 24) & 0xFFFFFF if isinstance(number, int) else 0


def by_process(rows: Sequence[Row], column: int) -> dict[int, list[int]]:
    """Indices of rows by the process in their global id; those without one belong to process 0."""
    indices: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        indices.setdefault(process_of(row[column]), []).append(index)
    return indices
