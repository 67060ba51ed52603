"""The contract between the plugin and the simulator: profile tables, their version, and SQL views.

Parquet files that follow these schemas are all that passes between the packages.
"""

from vtrain_schemas.tables import TABLES, Column, Table, arrow_schema
from vtrain_schemas.version import SCHEMA_VERSION, SchemaVersionError, check_version

__all__ = [
    "SCHEMA_VERSION",
    "TABLES",
    "Column",
    "SchemaVersionError",
    "Table",
    "arrow_schema",
    "check_version",
]
