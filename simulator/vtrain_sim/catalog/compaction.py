"""Merges the many files of a run into few: opening a file takes longer than reading what a rank wrote into it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vtrain_schemas import TABLES
from vtrain_schemas.layout import ranks_path
from vtrain_schemas.merged import Replaced, replaced_metadata, replaced_of
from vtrain_sim.catalog.errors import CatalogError
from vtrain_sim.catalog.scan import ProfileFile, judge
from vtrain_sim.errors import UserError
from vtrain_sim.whole_file import write_file

# A row group is what a query on one rank has to read.
_GROUP_ROWS = 1 << 15
# What nobody has written to for so long nobody will.
_ABANDONED_S = 3600


@dataclass(frozen=True)
class Merged:
    """A file that was written, and those of the index whose rows it holds."""

    file: ProfileFile
    parts: tuple[ProfileFile, ...]


def merge(files: Sequence[ProfileFile]) -> Iterator[Merged]:
    """Write the files that hold the rows of the usable local ones among these, of which there are several of a table.

    Those stay where they are: see `clear`. Raises `UserError` where the disk refuses or a file is damaged.
    """
    alike: dict[tuple[str, str, str | None], list[ProfileFile]] = defaultdict(list)
    for file in files:
        if not (file.remote or file.problem) and TABLES[file.table].of_ranks:
            # What a column means may differ between versions, and what is missing is not null.
            alike[file.directory, file.schema_version, file.columns].append(file)
    taken: set[Path] = set()
    for (directory, _, _), members in sorted(alike.items(), key=lambda item: item[0][:2]):
        if len(members) > 1:
            members.sort(key=lambda f: (f.rank, f.part))
            path = _free_path(directory, members, taken)
            taken.add(path)
            yield Merged(_write(path, members), tuple(members))


def check_finished(files: Sequence[ProfileFile]) -> None:
    """Raise `CatalogError` where a capture may still add to these: at its end it merges its parts itself."""
    now = time.time()
    for file in files:
        age = now - file.modified_ns / 1e9
        if ".part" in file.name and not file.remote and age < _ABANDONED_S:
            raise CatalogError(
                f"run {file.run_id} may still be captured: rank {file.rank} wrote {file.name} {age / 60:.0f} min ago, "
                f"which the capture merges at its end (or {_ABANDONED_S // 60} min from then it counts as abandoned)"
            )


def _free_path(directory: str, files: Sequence[ProfileFile], taken: set[Path]) -> Path:
    """A name that none of the files has, so that they are there until the new one is."""
    known = {Path(f.path) for f in files} | taken
    first, table = files[0], Path(directory)
    last = max(f.last_rank for f in files)
    names = (ranks_path(first.run_id, first.table, first.rank, last, part) for part in chain((None,), count(1)))
    paths = (table / Path(name).name for name in names)
    # What an interrupted merge left may still be there.
    return next(path for path in paths if path not in known and not path.exists())


def _write(path: Path, files: Sequence[ProfileFile]) -> ProfileFile:
    replaces: list[Replaced] = []
    for file in files:
        replaces.append(Replaced(file.name, file.bytes))
        if file.merged:
            replaces += replaced_of(pq.read_schema(file.path).metadata)
    first = pq.read_schema(files[0].path)
    # Long: of the file alone, not of each piece that is written into it.
    metadata = {**first.metadata, **replaced_metadata(replaces)}
    schema = first.remove_metadata()

    def write(stream: object) -> None:
        with pq.ParquetWriter(stream, first.with_metadata(metadata), compression="zstd") as writer:
            for table in _grouped(files, schema):
                writer.write_table(table, row_group_size=table.num_rows)

    try:
        write_file(path, write)
    except pa.ArrowException as error:
        raise UserError(f"cannot merge the files of {path.parent}: {str(error).splitlines()[0]}") from None
    made = judge(str(path))
    rows = sum(file.rows for file in files)
    if made is None or made.problem or made.rows != rows:
        path.unlink(missing_ok=True)
        raise UserError(f"cannot merge the files of {path.parent}: the result has not their {rows:,} rows")
    return made


def _grouped(files: Sequence[ProfileFile], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of files in turn, so many at a time as a row group has."""
    waiting: list[pa.Table] = []
    rows = 0
    for file in files:
        parquet = pq.ParquetFile(file.path)
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group, use_threads=False).select(schema.names).cast(schema)
            waiting.append(table)
            rows += table.num_rows
            if rows >= _GROUP_ROWS:
                yield pa.concat_tables(waiting)
                waiting, rows = [], 0
    if rows:
        yield pa.concat_tables(waiting)


def clear(file: ProfileFile) -> None:
    """Remove what a merged local file replaces and what an interrupted merge left.

    A file of another size than the one that was merged is another one, and stays.
    """
    directory = Path(file.directory)
    for part in replaced_of(pq.read_schema(file.path).metadata):
        path = directory / part.name
        # Another catalog of the run may be doing the same.
        with suppress(FileNotFoundError):
            if path != Path(file.path) and path.stat().st_size == part.bytes:
                path.unlink()


def clear_unfinished(directory: str) -> None:
    """Remove what merges that were killed left in the directory of a table; one that goes on writes all the time."""
    for path in Path(directory).glob("ranks=*.tmp"):
        if time.time() - path.stat().st_mtime > _ABANDONED_S:
            path.unlink(missing_ok=True)
