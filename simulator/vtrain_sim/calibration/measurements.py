"""Reads tables of measurements: Parquet or CSV files, queried as ``table``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb

from vtrain_sim.errors import UserError
from vtrain_sim.text_file import check_kind


def query(path: Path, sql: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
    """Rows of a query of ``table``, the file. values: parameters of the query, by name. Raises `UserError`."""
    if not path.exists():
        raise UserError(f"there is no file {path}")
    check_kind(path)
    reader = "read_csv" if path.suffix == ".csv" else "read_parquet"
    quoted = str(path).replace("'", "''")
    connection = duckdb.connect()
    try:
        connection.execute(f"CREATE VIEW \"table\" AS SELECT * FROM {reader}('{quoted}')")
        return connection.execute(sql.replace("FROM table", 'FROM "table"'), dict(values)).fetchall()
    except duckdb.BinderException as error:
        lacking = re.search(r'column "([^"]+)" not found', str(error))
        why = f"it has no column {lacking[1]}" if lacking else "its columns are not of the types that are needed"
        raise UserError(f"{path} is no table of such measurements: {why}") from None
    except duckdb.Error as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}") from None
    finally:
        connection.close()


def equal_to(wanted: Mapping[str, str]) -> tuple[str, dict[str, object]]:
    """SQL conditions, and their values, of the rows with these texts, by column; an empty text is not looked at."""
    values: dict[str, object] = {column: text for column, text in wanted.items() if text}
    return "".join(f" AND {column} = ${column}" for column in values), values


def columns_of(path: Path) -> list[str]:
    """Names of the columns of a file. Raises `UserError`."""
    return [name for (name,) in query(path, "SELECT column_name FROM (DESCRIBE SELECT * FROM table)", {})]
