"""Numbers in a file that nothing can have measured: sums and differences with them would overflow in every query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vtrain_schemas import TABLES

# Times of the clock, ns: from 1896 to 2116. Any two differ by less than 2^63.
_MOMENTS = {"start_ns", "host_start_ns", "launch_ns", "time_ns", "created_ns"}
_MOMENT = (-(2**61), 2**62)
# Numbers that only tell things apart.
_NAMES = {"span_id", "parent_id", "correlation", "stream", "device", "sequence", "sequence_number"}
# 104 days in ns, 8 PiB; thousands of them can be added up.
_QUANTITY = (-(2**53), 2**53)
# Every rank of a world is looked for.
_WORLD = (0, 2**20)


@cache
def _limits(table: str) -> dict[str, tuple[int, int]]:
    """By column, the lowest and highest number."""
    limits = {}
    for column in TABLES[table].columns:
        if column.name == "world_size":
            limits[column.name] = _WORLD
        elif column.type == pa.int64() and column.name not in _NAMES:
            limits[column.name] = _MOMENT if column.name in _MOMENTS else _QUANTITY
    return limits


def range_problem(table: str, parquet: pq.ParquetFile) -> str:
    """What is out of range by the footer of a file, or an empty string."""
    limits = _limits(table)
    for column, lowest, highest in extremes(parquet, limits, read=True):
        least, most = limits[column]
        if lowest < least or highest > most:
            number = lowest if lowest < least else highest
            return f"column {column!r} has {number}, which is out of range ({least} to {most})"
    return ""


def extremes(parquet: pq.ParquetFile, columns: Iterable[str], read: bool) -> Iterator[tuple[str, Any, Any]]:
    """Column, lowest and highest value of each row group, where there is one.

    read: the column itself, where the footer says nothing.
    """
    leaves = parquet.schema.names
    places = [(name, leaves.index(name)) for name in columns if name in leaves]
    for number in range(parquet.metadata.num_row_groups):
        group = parquet.metadata.row_group(number)
        for name, place in places:
            known = group.column(place).statistics
            if known is None and read:
                found = pc.min_max(parquet.read_row_group(number, [name], use_threads=False).column(0)).as_py()
                if found["min"] is not None:
                    yield name, found["min"], found["max"]
            elif known is not None and known.has_min_max:
                yield name, known.min, known.max
