"""The profile tables as views over the indexed files, and the documented views over these."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from vtrain_schemas import TABLES, arrow_schema
from vtrain_schemas.views import create_statements, quote, views
from vtrain_sim.catalog.places import open_place
from vtrain_sim.catalog.scan import ProfileFile

# From so many files of one rank on, a run's are chosen by name before any is opened: that takes time by itself.
_MANY = 32
# In no path.
_SEPARATOR = "\x1f"
_RANK_OF_NAME = r"CAST(regexp_extract(filename, 'rank=(\d+)[^/\\]*$', 1) AS INTEGER)"


def create_views(connection: duckdb.DuckDBPyConnection, usable: Sequence[ProfileFile]) -> None:
    """(Re)create the profile tables over those of the usable files that are local, and the documented views."""
    for name, table in TABLES.items():
        connection.execute(f"CREATE OR REPLACE VIEW {name} AS {_table_query(name, _files(usable, name, False))}")
        connection.execute(f"COMMENT ON VIEW {name} IS {quote('one row is ' + table.row)}")
        for column in table.columns:
            meaning = column.doc + (f", {column.unit}" if column.unit else "")
            connection.execute(f"COMMENT ON COLUMN {name}.{column.name} IS {quote(meaning)}")
    for view in views():
        for statement in create_statements(view):
            connection.execute(statement)


def shadow(connection: duckdb.DuckDBPyConnection, usable: Sequence[ProfileFile]) -> None:
    """Create temporary views that hide the persistent ones; they read remote files through Arrow."""
    for name in TABLES:
        query = _table_query(name, _files(usable, name, False))
        if remote := _files(usable, name, True):
            connection.register(f"remote_{name}", _dataset(name, remote))
            query = f"{query} UNION ALL BY NAME SELECT * FROM remote_{name}"
        connection.execute(f"CREATE OR REPLACE TEMPORARY VIEW {name} AS {query}")
    for view in views():
        for statement in create_statements(view, temporary=True):
            connection.execute(statement)


def _files(usable: Sequence[ProfileFile], table: str, remote: bool) -> list[ProfileFile]:
    """A table's files by path; of what every rank says of its run, that of the lowest one."""
    files = [f for f in usable if f.table == table and f.remote == remote]
    if not TABLES[table].of_ranks:
        lowest: dict[str, int] = {}
        for file in files:
            lowest[file.run_id] = min(file.rank, lowest.get(file.run_id, file.rank))
        files = [f for f in files if f.rank == lowest[f.run_id]]
    return sorted(files, key=lambda f: f.path)


def _table_query(name: str, files: Sequence[ProfileFile]) -> str:
    """SQL for the rows of a table in local files.

    Files are read together where they have the same columns: then one footer tells them, else all would be opened
    before a query begins.
    """
    columns = ", ".join(f'"{c}"' for c in TABLES[name].column_names)
    # An empty relation with all columns: what an older file lacks becomes null.
    empty = ", ".join(f'NULL::{_sql_type(f.type)} AS "{f.name}"' for f in arrow_schema(name))
    alike: dict[tuple[str, str | None, str], list[str]] = defaultdict(list)
    many = _runs_of_many(files)
    for file in files:
        run = file.run_id if file.run_id in many and file.rank == file.last_rank else ""
        alike[file.schema_version, file.columns, run].append(file.path)
    parts = [_read(paths, columns is None, run) for (_, columns, run), paths in alike.items()]
    return f"SELECT {columns} FROM ({' UNION ALL BY NAME '.join([f'SELECT {empty} WHERE false', *parts])})"


def _runs_of_many(files: Iterable[ProfileFile]) -> set[str]:
    counts: dict[str, int] = defaultdict(int)
    for file in files:
        counts[file.run_id] += file.rank == file.last_rank
    return {run for run, count in counts.items() if count >= _MANY}


def _read(paths: Sequence[str], any_columns: bool, run: str) -> str:
    """SQL that reads files. any_columns: they may have different ones. run: all are of this one, and of one rank each.

    A run and a rank that a query asks for are then known from the names of the files.
    """
    listed = path_list(paths)
    options = f"union_by_name = {str(any_columns).lower()}, hive_partitioning = false"
    if not run:
        return f"SELECT * FROM read_parquet({listed}, {options})"
    known = f"{quote(run)} AS run_id, {_RANK_OF_NAME} AS rank"
    return f"SELECT * EXCLUDE (filename) REPLACE ({known}) FROM read_parquet({listed}, {options}, filename = true)"


def path_list(paths: Sequence[str]) -> str:
    """SQL for a list of paths. A text that is split takes a tenth of the time and memory of so many constants."""
    if not paths:
        return "[]::VARCHAR[]"
    return f"string_split({quote(_SEPARATOR.join(paths))}, {quote(_SEPARATOR)})"


def _dataset(table: str, files: Sequence[ProfileFile]) -> pads.Dataset:
    """Remote files as an Arrow dataset, which opens none that its name rules out."""
    schema, kind = arrow_schema(table), pads.ParquetFileFormat()
    by_place: dict[int, list[ProfileFile]] = defaultdict(list)
    for file in files:
        by_place[id(open_place(file.path)[0])].append(file)
    parts = [
        pads.FileSystemDataset.from_paths(
            [open_place(f.path)[1] for f in members],
            schema=schema,
            format=kind,
            filesystem=open_place(members[0].path)[0].filesystem,
            partitions=[_known(table, f) for f in members],
        )
        for members in by_place.values()
    ]
    return parts[0] if len(parts) == 1 else pads.UnionDataset(schema, parts)


def _known(table: str, file: ProfileFile) -> pc.Expression:
    """What the name of a file says of all of its rows."""
    known = pc.field("run_id") == file.run_id
    if not TABLES[table].of_ranks:
        return known
    return known & (pc.field("rank") >= file.rank) & (pc.field("rank") <= file.last_rank)


def _sql_type(type_: pa.DataType) -> str:
    if pa.types.is_list(type_):
        return _sql_type(type_.value_type) + "[]"
    names = {
        "int16": "SMALLINT",
        "int32": "INTEGER",
        "int64": "BIGINT",
        "double": "DOUBLE",
        "string": "VARCHAR",
        "bool": "BOOLEAN",
    }
    return names[str(type_)]
