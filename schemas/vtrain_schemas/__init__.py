"""The contract between the plugin and the simulator: profile tables, their version, and SQL views.

Parquet files that follow these schemas are all that passes between the packages. The tables are
imported on first use: they need pyarrow, which a process that is only armed for a
capture should not pay for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from vtrain_schemas.version import SCHEMA_VERSION, SchemaVersionError, check_version

if TYPE_CHECKING:
    from vtrain_schemas.table import Column, Table
    from vtrain_schemas.tables import TABLES, arrow_schema

_LATER = {"TABLES": "tables", "arrow_schema": "tables", "Column": "table", "Table": "table"}


def __getattr__(name: str) -> object:
    if name in _LATER:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
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
