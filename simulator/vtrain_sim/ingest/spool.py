"""Events of one kind, by part of the trace: in memory while they are few, then in a file on disk without a name.

A file without a name goes away with the process, however that ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import SpooledTemporaryFile

import numpy as np

from vtrain_sim.ingest.trace import Events, Ints

# Bytes of one kind of event that stay in memory.
_IN_MEMORY = 16 << 20
_ITEM = 8


class Spool:
    """Integer columns, written a block at a time. names: of the columns. folder: where there is room on disk."""

    def __init__(self, names: Sequence[str], folder: Path | None) -> None:
        self.names = tuple(names)
        self.rows = 0
        self._shifts: dict[str, int] = {}
        self._file = SpooledTemporaryFile(_IN_MEMORY, dir=None if folder is None else str(folder))  # noqa: SIM115 (closed by `close`)
        # Of each part, where its blocks begin in the file, in rows, and how long they are.
        self._places: dict[int, list[tuple[int, int]]] = {}

    def add(self, **columns: Ints) -> None:
        """Append a block to the first part; every column has the same length."""
        self._write(0, [np.asarray(columns[name], dtype=np.int64) for name in self.names])

    def scatter(self, events: Events, part: Ints) -> None:
        """Append events to their parts, in the order that they have. part: [events] number, from 0."""
        if not len(part):
            return
        order = np.argsort(part, kind="stable")
        cuts = np.flatnonzero(np.diff(part[order])) + 1
        for rows in np.split(order, cuts):
            self._write(int(part[rows[0]]), [events.columns[name][rows] for name in self.names])

    def shift(self, name: str, by: int) -> None:
        """Add something to a column of all events, as they are read back."""
        self._shifts[name] = by

    def blocks(self, part: int | None = None) -> Iterator[Events]:
        """The blocks of one part, or of all of them, in the order in which they were written."""
        places = sorted(p for ps in self._places.values() for p in ps) if part is None else self._places.get(part, ())
        for begin, count in places:
            self._file.seek(begin * len(self.names) * _ITEM)
            data = self._file.read(count * len(self.names) * _ITEM)
            table = np.frombuffer(data, dtype=np.int64).reshape(len(self.names), count)
            columns = dict(zip(self.names, table, strict=True))
            yield Events({**columns, **{name: columns[name] + by for name, by in self._shifts.items()}})

    def events(self, part: int | None = None) -> Events:
        """The events of one part, or of all of them."""
        return concatenated(self.names, list(self.blocks(part)))

    def close(self) -> None:
        """Give up the events."""
        self._file.close()

    def _write(self, part: int, columns: list[Ints]) -> None:
        count = len(columns[0])
        if not count:
            return
        self._file.seek(self.rows * len(self.names) * _ITEM)
        self._file.write(np.stack(columns).tobytes())
        self._places.setdefault(part, []).append((self.rows, count))
        self.rows += count


def concatenated(names: Sequence[str], blocks: Sequence[Events]) -> Events:
    """Blocks of events with the same columns as one."""
    nothing = np.empty(0, dtype=np.int64)
    return Events({name: np.concatenate([nothing, *(b.columns[name] for b in blocks)]) for name in names})
