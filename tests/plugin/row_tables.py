"""Rows as tests look at them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def by_table(rows: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Rows by the table that they are of."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for table, row in rows:
        tables.setdefault(table, []).append(row)
    return tables
