"""Reads files in full, to find damage that their footers do not show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import duckdb
import pyarrow.parquet as pq

from vtrain_sim.catalog.places import AT_A_TIME, open_place
from vtrain_sim.catalog.scan import UNREADABLE, ProfileFile


def damages(connection: duckdb.DuckDBPyConnection, files: Sequence[ProfileFile]) -> dict[str, str]:
    """By path, what is wrong with those of the files that cannot be read or have other rows than recorded."""
    alike: dict[tuple[str, str, str | None], list[ProfileFile]] = defaultdict(list)
    for file in files:
        if not file.remote:
            alike[file.table, file.schema_version, file.columns].append(file)
    found: dict[str, str] = {}
    for (_, _, columns), members in alike.items():
        found |= _damages_alike(connection, members) if columns is not None else dict(_one_by_one(members))
    remote = [file for file in files if file.remote]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        found |= {f.path: what for f, what in zip(remote, pool.map(_damage, remote), strict=True) if what}
    return found


def _damages_alike(connection: duckdb.DuckDBPyConnection, files: Sequence[ProfileFile]) -> dict[str, str]:
    """The same of local files that have the same columns: all in one pass, or where that fails one by one."""
    query = """
        SELECT filename, count(*), bit_xor(hash(t))
        FROM read_parquet(?, filename = true, hive_partitioning = false) t GROUP BY filename
    """
    try:
        rows = connection.execute(query, [[f.path for f in files]]).fetchall()
    except duckdb.Error:
        return dict(_one_by_one(files))
    counts = {path: count for path, count, _ in rows}
    return {f.path: what for f in files if (what := _other_rows(f, counts.get(f.path, 0)))}


def _one_by_one(files: Sequence[ProfileFile]) -> Iterator[tuple[str, str]]:
    for file in files:
        if what := _damage(file):
            yield file.path, what


def _damage(file: ProfileFile) -> str:
    """What is wrong with a file, or an empty string."""
    place, inner = open_place(file.path)
    read = 0
    try:
        with place.filesystem.open_input_file(inner) as stream:
            for batch in pq.ParquetFile(stream).iter_batches(batch_size=65536, use_threads=False):
                read += batch.num_rows
    except UNREADABLE as error:
        return f"damaged: {str(error).splitlines()[0]}"
    return _other_rows(file, read)


def _other_rows(file: ProfileFile, rows: int) -> str:
    return "" if rows == file.rows else f"has {rows:,} rows, but had {file.rows:,} when it was added"
