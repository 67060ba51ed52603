"""Tables written piece by piece: to the files of a profile, and laid by on disk until they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile

import pyarrow as pa
import pyarrow.parquet as pq

from vtrain_schemas import arrow_schema


def write_tables(pieces: Iterable[tuple[str, pa.Table]], places: dict[str, Path]) -> dict[str, int]:
    """Write pieces of tables, each to the file of its table; how many rows each table has.

    places: of the tables that are written. A table without rows has no file, whether one was there or not.
    """
    rows = dict.fromkeys(places, 0)
    with ExitStack() as opened:
        writers: dict[str, pq.ParquetWriter] = {}
        for name, piece in pieces:
            if name not in places or not piece.num_rows:
                continue
            if name not in writers:
                places[name].parent.mkdir(parents=True, exist_ok=True)
                writer = pq.ParquetWriter(places[name], arrow_schema(name), compression="zstd")
                writers[name] = opened.enter_context(writer)
            writers[name].write_table(piece)
            rows[name] += piece.num_rows
    for name, place in places.items():
        if not rows[name]:
            place.unlink(missing_ok=True)
    return rows


class Shelf:
    """Tables of one schema, laid by in a file without a name, which goes away with the process. folder: where to."""

    def __init__(self, schema: pa.Schema, folder: Path | None) -> None:
        self._schema = schema
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115 (closed with the last table)
        self._writer = pa.ipc.new_stream(self._file, schema)

    def add(self, table: pa.Table) -> None:
        """Lay a table by."""
        self._writer.write_table(table)

    def tables(self) -> Iterator[pa.Table]:
        """The tables in order, once; an empty one where there is no row."""
        self._writer.close()
        self._file.seek(0)
        some = False
        for batch in pa.ipc.open_stream(self._file):
            some = True
            yield pa.Table.from_batches([batch], schema=self._schema)
        if not some:
            yield self._schema.empty_table()
        self._file.close()
