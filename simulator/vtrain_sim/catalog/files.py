"""What the index says of its files, beside what is there now."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields, replace

import duckdb

from vtrain_schemas.layout import RUN_PREFIX
from vtrain_sim.catalog.scan import ProfileFile, judge, open_filesystem
from vtrain_sim.errors import UserError

# Why a file that was there once is not read; it is again once it is back.
GONE = "gone: it was there when it was added"
_COLUMNS = "run_id, table_name, rank, part, path, remote, rows, bytes, modified_ns, schema_version, problem"
_LISTED_RUNS = 8


@dataclass(frozen=True)
class Changes:
    """What became of the indexed files. usable: those to read, as they were recorded.

    gone: no longer there. altered: of another size or time than recorded, as they are now. returned: recorded as gone,
    but there. unusable: by path, why a file is not read that was usable when it was added. as_recorded: the index says
    so too. unreachable: remote places that did not answer; their files count as gone.
    """

    usable: tuple[ProfileFile, ...]
    gone: tuple[ProfileFile, ...]
    altered: tuple[ProfileFile, ...]
    returned: tuple[ProfileFile, ...]
    unusable: dict[str, str]
    as_recorded: bool
    unreachable: tuple[str, ...]


def recorded(connection: duckdb.DuckDBPyConnection) -> list[ProfileFile]:
    """Every file of the index, by path. Raises `duckdb.CatalogException` where there is no index."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM files ORDER BY path").fetchall()
    return [ProfileFile(*row) for row in rows]


def record(connection: duckdb.DuckDBPyConnection, files: Iterable[ProfileFile]) -> None:
    """Add files to the list, or replace what the list says of them."""
    marks = ", ".join("?" * len(fields(ProfileFile)))
    for file in files:
        connection.execute(f"INSERT OR REPLACE INTO files ({_COLUMNS}) VALUES ({marks})", list(astuple(file)))


def forget(connection: duckdb.DuckDBPyConnection, files: Iterable[ProfileFile]) -> None:
    """Take files off the list."""
    for file in files:
        connection.execute("DELETE FROM files WHERE path = ?", [file.path])


def changes(files: Sequence[ProfileFile], remote: bool = True) -> Changes:
    """Compare the index with what is there. remote: look at remote files too, else they count as there."""
    unreachable: list[str] = []
    now = _sizes_and_times(files, remote, unreachable)
    there = [f for f in files if f.path in now]
    gone = tuple(f for f in files if f.path not in now)
    altered = tuple(
        found for f in there if now[f.path] != (f.bytes, f.modified_ns) and (found := judge(f.path)) is not None
    )
    returned = tuple(replace(f, problem="") for f in there if f.problem == GONE)
    unusable = {f.path: GONE for f in gone if f.problem in ("", GONE)}
    usable_before = {f.path for f in files if f.problem in ("", GONE)}
    unusable |= {f.path: f.problem for f in altered if f.problem and f.path in usable_before}
    usable = tuple(f for f in (*there, *returned) if not f.problem and f.path not in unusable)
    back = tuple(f for f in returned if f.path not in unusable)
    as_recorded = not back and all(f.problem for f in files if f.path in unusable)
    return Changes(usable, gone, altered, back, unusable, as_recorded, tuple(unreachable))


def _sizes_and_times(files: Sequence[ProfileFile], remote: bool, unreachable: list[str]) -> dict[str, tuple[int, int]]:
    """Bytes and modification time of the files that are there. unreachable: takes in places that do not answer."""
    now = {}
    for file in files:
        if file.remote:
            continue
        try:
            status = os.stat(file.path)
        except OSError:
            continue
        now[file.path] = (status.st_size, status.st_mtime_ns)
    places: dict[str, list[ProfileFile]] = {}
    for file in files:
        if file.remote and remote:
            places.setdefault(file.path.rpartition(f"/{RUN_PREFIX}")[0], []).append(file)
        elif file.remote:
            now[file.path] = (file.bytes, file.modified_ns)
    for place, members in places.items():
        answer = _remote_sizes_and_times(place, [f.path for f in members])
        if answer is None:
            unreachable.append(place)
        now |= answer or {}
    return now


def _remote_sizes_and_times(place: str, paths: list[str]) -> dict[str, tuple[int, int]] | None:
    """The same of files below a URI; None where it does not answer."""
    try:
        filesystem, _, _ = open_filesystem(place)
        infos = filesystem.get_file_info([path.partition("://")[2] for path in paths])
    except (OSError, UserError):
        return None
    return {p: (int(i.size or 0), int(i.mtime_ns or 0)) for p, i in zip(paths, infos, strict=True) if i.is_file}


def left_out(files: Sequence[ProfileFile], found: Changes) -> list[str]:
    """A sentence per run whose files are not read though they were usable when they were added."""
    runs = {f.path: f.run_id for f in files}
    lost = Counter(runs[path] for path in found.unusable)
    total = Counter(runs.values())
    sentences = [
        f"run {run}: {count} of {total[run]} files are gone or damaged and left out; vtrain-catalog check names them"
        for run, count in sorted(lost.items())
    ]
    more = len(sentences) - _LISTED_RUNS
    return [*sentences[:_LISTED_RUNS], *([f"and files of {more} more runs"] if more > 0 else [])]
