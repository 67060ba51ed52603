"""What a profile table is: its rows and its columns."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """One column: Arrow type, unit ("" where it has none) and meaning."""

    name: str
    type: pa.DataType
    doc: str
    unit: str = ""
    nullable: bool = True


@dataclass(frozen=True)
class Table:
    """One profile table: what a row is, and its columns."""

    name: str
    row: str
    columns: tuple[Column, ...]

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def of_ranks(self) -> bool:
        """Whether each rank has rows of its own; else every rank describes the run, and the lowest one counts."""
        return "rank" in self.column_names
