"""Columns of a profile table that are made a piece at a time: a large trace's table never stands in memory whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from vtrain_schemas import arrow_schema
from vtrain_sim.ingest.trace import Bools, Ints

# Rows made at a time, and rows of a row group in the file.
PIECE = 1 << 17


class Column(Protocol):
    """Something that gives the rows from `begin` to `end`."""

    def __len__(self) -> int: ...

    def part(self, begin: int, end: int) -> pa.Array: ...


@dataclass(frozen=True)
class Numbers:
    """Values as they are; null where `known` says no."""

    values: Ints
    known: Bools | None = None

    def __len__(self) -> int:
        return len(self.values)

    def part(self, begin: int, end: int) -> pa.Array:
        return pa.array(self.values[begin:end], mask=None if self.known is None else ~self.known[begin:end])


class Looked:
    """Values of a list by their number; null for a negative one, and where the list has None.

    values: as an array where several columns share them.
    """

    def __init__(self, values: Iterable[object] | pa.Array, index: Ints, type_: pa.DataType | None = None) -> None:
        self._values = values if isinstance(values, pa.Array) else pa.array(list(values), type=type_ or pa.string())
        self._index = index

    def __len__(self) -> int:
        return len(self._index)

    def part(self, begin: int, end: int) -> pa.Array:
        index = self._index[begin:end]
        return self._values.take(pa.array(index, mask=index < 0))


def from_zero(values: Ints) -> Numbers:
    """Values of which negative ones mean none."""
    return Numbers(values, values >= 0)


def joined(first: Numbers, second: Numbers) -> Numbers:
    """The rows of two columns, one behind the other."""
    known = [c.known if c.known is not None else np.ones(len(c), dtype=bool) for c in (first, second)]
    return Numbers(np.concatenate([first.values, second.values]), np.concatenate(known))


def pieces(name: str, columns: Mapping[str, Column], run_id: str, rank: int) -> Iterator[pa.Table]:
    """Tables of up to `PIECE` rows with all columns of a schema: those that are not given are null."""
    schema = arrow_schema(name)
    count = len(next(iter(columns.values())))
    for begin in range(0, max(count, 1), PIECE):
        end = min(count, begin + PIECE)
        arrays = []
        for field in schema:
            if field.name == "run_id":
                arrays.append(pa.repeat(run_id, end - begin))
            elif field.name == "rank":
                arrays.append(pa.repeat(pa.scalar(rank, field.type), end - begin))
            elif field.name in columns:
                arrays.append(columns[field.name].part(begin, end).cast(field.type))
            else:
                arrays.append(pa.nulls(end - begin, field.type))
        yield pa.Table.from_arrays(arrays, schema=schema)
