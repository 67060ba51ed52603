"""The contract between the plugin and the simulator: profile tables, their version, and SQL views.

Parquet files that follow these schemas are all that passes between the packages. The tables are
imported on first use: they need pyarrow, which a process that is only armed for a
capture should not pay for.
"""

from typing import TYPE_CHECKING

from vtrain_schemas.version import SCHEMA_VERSION, SchemaVersionError, check_version

if TYPE_CHECKING:
    from vtrain_schemas.tables import TABLES, Column, Table, arrow_schema

_TABLES = ("TABLES", "Column", "Table", "arrow_schema")


def __getattr__(name: str) -> object:
    if name in _TABLES:
        from vtrain_schemas import tables

        return getattr(tables, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "SCHEMA_VERSION",
    "TABLES",
    "Column",
    "SchemaVersionError",
    "Table",
    "arrow_schema",
    "check_version",
]
