"""Brings the index to what is there: what a scan listed, what was merged meanwhile, and copies of a run."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import duckdb

from vtrain_schemas import TABLES
from vtrain_schemas.merged import ignored
from vtrain_sim.catalog.files import GONE, forget, record, recorded
from vtrain_sim.catalog.scan import ProfileFile, scan


class Copy(NamedTuple):
    """Two directories that hold the same rank of a run: its rows would count twice."""

    run_id: str
    rank: int
    first: str
    second: str

    @property
    def problem(self) -> str:
        """Why the files of the second one are not read."""
        return (
            f"run {self.run_id} has rank {self.rank} in {self.first} too: its rows would count twice (where that one "
            f"is the copy: vtrain-catalog remove {self.run_id}, then add this one)"
        )


def update(
    connection: duckdb.DuckDBPyConnection,
    files: Sequence[ProfileFile],
    scan_again: Callable[[Mapping[str, ProfileFile]], Sequence[ProfileFile]],
) -> tuple[Sequence[ProfileFile], list[ProfileFile]]:
    """Record the files that a scan listed; them as they are recorded, and those that are new or have changed.

    scan_again: lists them once more, given what the index says by path.
    """
    known_files = recorded(connection)
    if _is_outdated(files, known_files):
        # Somebody merged them since; nobody does as long as this connection writes.
        files = scan_again({f.path: f for f in known_files})
    missing = _missing(known_files, files)
    files = mark_copies(files, [f for f in known_files if f.path not in {f.path for f in missing}])
    known = {f.path: _state(f) for f in known_files}
    changed = [f for f in files if known.get(f.path) != _state(f)]
    forget(connection, missing)
    record(connection, changed)
    return files, changed


def _state(file: ProfileFile) -> tuple[int, int, str]:
    return file.bytes, file.modified_ns, "" if file.problem == GONE else file.problem


def _is_outdated(files: Sequence[ProfileFile], known: Sequence[ProfileFile]) -> bool:
    """Whether a scan lists a file that is gone, or lacks one of the index that is there."""
    if not all(f.remote or os.path.exists(f.path) for f in files):
        return True
    return any(os.path.exists(f.path) for f in _missing(known, files) if not f.remote)


def _missing(known: Sequence[ProfileFile], files: Sequence[ProfileFile]) -> list[ProfileFile]:
    """Those of the index that a scan of their run's directory lacks: a run that was captured again may have fewer."""
    present = {f.path for f in files}
    directories = {f.run_directory for f in files}
    return [f for f in known if f.path not in present and f.run_directory in directories]


def merged_meanwhile(files: Sequence[ProfileFile]) -> tuple[list[ProfileFile], list[ProfileFile]]:
    """Local merged files that the index does not know, and those of its files that they replace.

    A capture merges its parts at its end, and a run may be in several catalogs.
    """
    known = {f.path: f for f in files}
    by_directory: dict[str, dict[str, int]] = defaultdict(dict)
    for file in files:
        if not file.remote:
            by_directory[file.directory][file.name] = file.bytes
    fresh = []
    replaced: set[str] = set()
    for run in sorted({f.run_directory for f in files if not f.remote}):
        for file in scan(run, known) if os.path.isdir(run) else ():
            if file.path in known or file.problem or not file.merged:
                continue
            names = ignored(by_directory[file.directory], file.replaces)
            if names:
                fresh.append(file)
                replaced |= {f"{file.directory}/{name}" for name in names}
    return fresh, [known[path] for path in sorted(replaced)]


def copies(files: Iterable[ProfileFile]) -> Iterator[Copy]:
    """Directories of a run that hold a rank that another one holds, which comes first among the files."""
    of_run: dict[str, dict[str, list[ProfileFile]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        if not file.problem and TABLES[file.table].of_ranks:
            of_run[file.run_id][file.run_directory].append(file)
    for run_id, directories in of_run.items():
        if len(directories) < 2:
            continue
        first: dict[tuple[str, int], str] = {}
        for directory, members in directories.items():
            ranks = {(f.table, rank) for f in members for rank in _ranks(f)}
            if both := sorted(ranks & first.keys(), key=lambda entry: entry[1]):
                yield Copy(run_id, both[0][1], first[both[0]], directory)
            else:
                first |= dict.fromkeys(ranks, directory)


def _ranks(file: ProfileFile) -> Iterable[int]:
    """Ranks that a file has rows of for sure."""
    whole = file.ranks == file.last_rank - file.rank + 1
    return range(file.rank, file.last_rank + 1) if whole else (file.rank, file.last_rank)


def mark_copies(files: Sequence[ProfileFile], known: Sequence[ProfileFile]) -> list[ProfileFile]:
    """The files, with a problem those of directories that hold ranks which another directory of the run holds.

    known: what the index says and keeps, of these too; what is read already stays.
    """
    runs: dict[str, set[str]] = defaultdict(set)
    for file in (*files, *known):
        runs[file.run_id].add(file.run_directory)
    doubtful = {run for run, directories in runs.items() if len(directories) > 1}
    if not doubtful:
        return list(files)
    anew = {f.path for f in files}
    others = [f for f in known if f.run_id in doubtful and f.path not in anew]
    there = [f for f in others if f.remote or os.path.exists(f.path)]
    read = {f.run_directory for f in known if not f.problem}
    candidates = [*there, *(f for f in files if f.run_id in doubtful)]
    problems = {
        (c.run_id, c.second): c.problem for c in copies(sorted(candidates, key=lambda f: f.run_directory not in read))
    }
    return [f._replace(problem=f.problem or problems.get((f.run_id, f.run_directory), "")) for f in files]
