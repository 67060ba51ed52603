"""Rows of a query by the names of their columns."""

from __future__ import annotations

import duckdb

from vtrain_sim.results import Row


def dictionaries(result: duckdb.DuckDBPyConnection) -> list[Row]:
    """The rows of an executed query, each as column name -> value."""
    names = [column[0] for column in result.description or []]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]
