"""Views over hand-made rows of the profile tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa

from vtrain_schemas import TABLES, arrow_schema
from vtrain_schemas.views import create_statements, views

Rows = list[dict[str, Any]]


@contextmanager
def profile(**tables: Iterable[dict[str, Any]]) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with these rows and the views; columns of the tables that a row does not name are null."""
    with duckdb.connect() as connection:
        for name in TABLES:
            rows = [{"run_id": "r", **row} for row in tables.get(name, ())]
            fields = [field.with_nullable(True) for field in arrow_schema(name)]
            connection.register(name, pa.Table.from_pylist(rows, schema=pa.schema(fields)))
        for view in views():
            connection.execute(create_statements(view, temporary=True)[0])
        yield connection


def query(sql: str, **tables: Iterable[dict[str, Any]]) -> Rows:
    """The rows of a query over the views of such a database."""
    with profile(**tables) as connection:
        rows: Rows = connection.sql(sql).to_arrow_table().to_pylist()
        return rows


def call(rank: int, start: int, duration: int | None, **columns: Any) -> dict[str, Any]:
    """A row of the collectives table: an all-reduce of ranks 0 and 1, blocking."""
    return {
        "rank": rank,
        "step": 1,
        "op": "all_reduce",
        "role": "tp",
        "source": "hook",
        "bytes": 1000,
        "group_ranks": [0, 1],
        "sequence": 0,
        "is_async": duration is None,
        "start_ns": start,
        "duration_ns": duration,
        "exposed_ns": duration,
        **columns,
    }


def kernel(name: str, start: int, duration: int, launch: int | None = None, **columns: Any) -> dict[str, Any]:
    """A row of the kernels table."""
    return {
        "rank": 0,
        "step": 1,
        "stream": 7,
        "kind": "gemm",
        "name": name,
        "start_ns": start,
        "duration_ns": duration,
        "launch_ns": launch,
        **columns,
    }
