"""Finds the files of runs below a directory or URI, and judges each one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from vtrain_schemas import TABLES, SchemaVersionError, check_version
from vtrain_schemas.layout import RUN_PREFIX, TABLE_PREFIX, FileName, parse_file_name
from vtrain_schemas.merged import Replaced, ignored, replaced_of
from vtrain_sim.catalog.places import AT_A_TIME, Place, is_remote, open_place
from vtrain_sim.catalog.ranges import extremes, range_problem
from vtrain_sim.errors import UserError

# What reading a damaged file raises; names in it may be no text.
UNREADABLE = (OSError, pa.ArrowException, UnicodeDecodeError)
_CIRCLE = "vtrain.replaces in its metadata names the file itself, or another one that replaces it"


class ProfileFile(NamedTuple):
    """One Parquet file of a profile. `problem` is empty for a usable one.

    rank, last_rank: of the rows in it; ranks: how many there are of. part: ordinal among the rank's files.
    columns: known ones that it lacks (``-fused``) and others that it has (``+note``), sorted; None: not looked at.
    merged: it holds the rows of files that it replaces. replaces: these; not known of one that the index says.
    """

    run_id: str
    table: str
    rank: int
    part: int
    path: str
    remote: bool
    rows: int
    bytes: int
    modified_ns: int
    schema_version: str
    problem: str
    last_rank: int
    ranks: int
    columns: str | None
    merged: bool
    replaces: tuple[Replaced, ...] = ()

    @property
    def directory(self) -> str:
        """That of its table and run."""
        return self.path.rpartition("/")[0]

    @property
    def run_directory(self) -> str:
        """That of its run; other ranks of the run may be below another one."""
        return self.path.rsplit("/", 2)[0]

    @property
    def name(self) -> str:
        """Name in its directory."""
        return self.path.rpartition("/")[2].partition("?")[0]


def scan(where: str, known: Mapping[str, ProfileFile] | None = None) -> list[ProfileFile]:
    """Every profile file below `where` but those whose rows another one there holds; `UserError` where there is none.

    known: files that were judged before, by path: unchanged ones are not judged again.
    """
    place, root = open_place(where)
    try:
        info = place.filesystem.get_file_info(root)
        if info.type == pafs.FileType.NotFound:
            raise UserError(f"there is no directory {where}")
        if info.type == pafs.FileType.File:
            raise UserError(f"{where} is a remote file: traces are read from a local disk, profiles by their directory")
        entries = place.filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
    except OSError as error:
        raise UserError(f"cannot list {where}: {error}") from None
    # A run directory may itself be given: its own name is then the last part of the root.
    files = _without_replaced(_judged(place, entries, known or {}))
    if not files:
        raise UserError(f"no profile below {where}: expected {RUN_PREFIX}<id>/{TABLE_PREFIX}<name>/rank=<n>.parquet")
    return files


def _judged(place: Place, entries: Sequence[pafs.FileInfo], known: Mapping[str, ProfileFile]) -> list[ProfileFile]:
    files, fresh = [], []
    beside = Counter(place_in for entry in entries for place_in in _places_in(entry.path))
    for entry in entries:
        before = known.get(place.name(entry.path))
        # What a merged file replaces may still be there: files of the same rank, or any.
        alone = before is None or not before.merged or beside[_places_in(entry.path)[before.ranks == 1]] == 1
        # What was wrong with a file may be what an older vtrain could not read.
        if before is not None and alone and not before.problem and _is_as_it_was(before, entry):
            files.append(before)
        else:
            fresh.append(entry)
    if place.base:
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            judged = list(pool.map(partial(_judge, place), fresh))
    else:
        judged = [_judge(place, entry) for entry in fresh]
    return [*files, *(file for file in judged if file is not None)]


def _places_in(path: str) -> tuple[str, str]:
    """The directory of a file, and what the files of one rank in it have in common."""
    directory, _, name = path.rpartition("/")
    return directory, f"{directory}/{name.partition('.')[0]}"


def _is_as_it_was(before: ProfileFile, entry: pafs.FileInfo) -> bool:
    return (before.bytes, before.modified_ns) == (int(entry.size or 0), int(entry.mtime_ns or 0))


def _without_replaced(files: Sequence[ProfileFile]) -> list[ProfileFile]:
    """Those whose rows no usable file beside them holds."""
    beside: dict[str, list[ProfileFile]] = defaultdict(list)
    for file in files:
        beside[file.directory].append(file)
    kept = []
    for members in map(_without_circles, beside.values()):
        merged = [replaced for f in members if not f.problem for replaced in f.replaces]
        gone = ignored({f.name: f.bytes for f in members}, merged) if merged else ()
        kept += [f for f in members if f.name not in gone]
    return kept


def _without_circles(files: Sequence[ProfileFile]) -> list[ProfileFile]:
    """The files of a directory; of those that replace each other it is not known which holds all rows."""
    merged = {f.name: f for f in files if f.replaces and not f.problem}

    def replaced(name: str) -> set[str]:
        return {r.name for r in merged[name].replaces if r.name in merged and merged[r.name].bytes == r.bytes}

    circular = set()
    for name in merged:
        reached, ahead = set[str](), replaced(name)
        while ahead:
            reached |= ahead
            ahead = set().union(*map(replaced, ahead)) - reached
        if name in reached:
            circular.add(name)
    return [f._replace(problem=_CIRCLE) if f.name in circular else f for f in files]


def judge(path: str) -> ProfileFile | None:
    """One file of a profile as it is now; None where it is none, or not there."""
    place, inner = open_place(path)
    return _judge(place, place.filesystem.get_file_info(inner))


def _judge(place: Place, info: pafs.FileInfo) -> ProfileFile | None:
    parts = info.path.replace("\\", "/").split("/")
    if info.type != pafs.FileType.File or len(parts) < 3:
        return None
    name = parse_file_name(parts[-1])
    if name is None or not parts[-2].startswith(TABLE_PREFIX) or not parts[-3].startswith(RUN_PREFIX):
        return None
    run_id, table = parts[-3][len(RUN_PREFIX) :], parts[-2][len(TABLE_PREFIX) :]
    path = place.name(info.path)
    file = ProfileFile(
        run_id,
        table,
        name.first_rank,
        name.part or 0,
        path,
        is_remote(path),
        0,
        int(info.size or 0),
        int(info.mtime_ns or 0),
        "",
        "",
        name.last_rank,
        1,
        "",
        False,
    )
    if table not in TABLES:
        return file._replace(problem=f"unknown table {table!r}")
    try:
        with place.filesystem.open_input_file(info.path) as stream:
            return _with_contents(file, name, pq.ParquetFile(stream))
    except UNREADABLE as error:
        return file._replace(problem=f"damaged: {str(error).splitlines()[0]}")


def _with_contents(file: ProfileFile, name: FileName, parquet: pq.ParquetFile) -> ProfileFile:
    """A file with what its footer says."""
    schema = parquet.schema_arrow
    metadata = schema.metadata or {}
    version = metadata.get(b"vtrain.schema_version", b"").decode(errors="replace")
    problem = (
        _schema_problem(file.table, schema, version)
        or _rows_problem(file, parquet)
        or range_problem(file.table, parquet)
    )
    replaces: tuple[Replaced, ...] = ()
    try:
        replaces = replaced_of(metadata)
    except ValueError as error:
        problem = problem or str(error)
    if Replaced(file.name, file.bytes) in replaces:
        problem = problem or _CIRCLE
    known, has = TABLES[file.table].column_names, schema.names
    columns = [*(f"-{c}" for c in known if c not in has), *(f"+{c}" for c in has if c not in known)]
    # A file may hold more than its name says, such as what one process played for all ranks.
    lowest, highest = _ranks_in(file, parquet) if not problem else (file.rank, file.last_rank)
    return file._replace(
        rank=min(file.rank, lowest),
        last_rank=max(file.last_rank, highest),
        rows=parquet.metadata.num_rows,
        schema_version=version,
        problem=problem,
        ranks=_number_of_ranks(name, replaces, highest - lowest + 1),
        columns=" ".join(sorted(columns)),
        merged=bool(replaces),
        replaces=replaces,
    )


def _number_of_ranks(name: FileName, replaces: Sequence[Replaced], most: int) -> int:
    """How many ranks a file has rows of: of a merged one of many ranks, those whose files it holds."""
    if name.first_rank == name.last_rank or not replaces:
        return most
    merged = [inner for each in replaces if (inner := parse_file_name(each.name)) is not None]
    return len({one.first_rank for one in merged if one.first_rank == one.last_rank})


def _rows_problem(file: ProfileFile, parquet: pq.ParquetFile) -> str:
    """Why the rows are not those of the run and the ranks that the path says; files may have been renamed."""
    for _, low, high in extremes(parquet, ("run_id",), read=False):
        if not low == high == file.run_id:
            return f"holds rows of run {low!r}: its directory must be called {RUN_PREFIX}{low}"
    lowest, highest = _ranks_in(file, parquet)
    if lowest == highest and not file.rank <= lowest <= file.last_rank:
        return f"holds rows of rank {lowest}, which its name does not say"
    return ""


def _ranks_in(file: ProfileFile, parquet: pq.ParquetFile) -> tuple[int, int]:
    """The lowest and the highest rank that a file has rows of, as far as its footer says; else those of its name."""
    known = list(extremes(parquet, ("rank",), read=False))
    lowest = min((low for _, low, _ in known), default=file.rank)
    return lowest, max((high for _, _, high in known), default=file.last_rank)


def _schema_problem(table: str, schema: pa.Schema, version: str) -> str:
    if not version:
        return "has no vtrain.schema_version in its metadata: not written by vtrain"
    try:
        check_version(version, "the file")
    except SchemaVersionError as error:
        return str(error)
    for column in TABLES[table].columns:
        index = schema.get_field_index(column.name)
        if index < 0:
            if not column.nullable:
                return f"lacks the column {column.name!r}"
        elif schema.field(index).type != column.type:
            return f"column {column.name!r} is {schema.field(index).type}, not {column.type}"
    return ""
