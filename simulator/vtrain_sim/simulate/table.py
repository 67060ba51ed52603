"""Rows of numbers with named columns, which are cheap to put one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@lru_cache(maxsize=64)
def _positions(columns: tuple[str, ...]) -> dict[str, int]:
    return {name: position for position, name in enumerate(columns)}


class Table:
    """values: [rows, columns]; a column is taken and set by its name."""

    __slots__ = ("_at", "columns", "values")

    def __init__(self, columns: tuple[str, ...], values: Floats) -> None:
        self.columns = columns
        self.values = values
        self._at = _positions(columns)

    @classmethod
    def zeros(cls, columns: tuple[str, ...], rows: int) -> Table:
        """A table of zeros."""
        return cls(columns, np.zeros((rows, len(columns))))

    @classmethod
    def concatenated(cls, tables: Sequence[Table]) -> Table:
        """The rows of tables with the same columns, one table after the other."""
        return cls(tables[0].columns, np.concatenate([table.values for table in tables]))

    def __getitem__(self, name: str) -> Floats:
        column: Floats = self.values[:, self._at[name]]
        return column

    def __setitem__(self, name: str, values: Floats | Sequence[float] | float) -> None:
        self.values[:, self._at[name]] = values

    def fill(self, columns: tuple[str, ...], values: Floats) -> None:
        """Set columns that stand next to each other; values: [rows, columns]."""
        first = self._at[columns[0]]
        if self.columns[first : first + len(columns)] != columns:
            raise ValueError(f"columns {columns} do not stand next to each other in {self.columns}")
        self.values[:, first : first + len(columns)] = values

    def __len__(self) -> int:
        return len(self.values)
