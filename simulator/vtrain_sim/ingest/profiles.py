"""From traces on disk to profiles on disk: one run at a time, each written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import groupby
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from operator import itemgetter
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from vtrain_schemas import arrow_schema
from vtrain_schemas.layout import RUN_PREFIX, check_run_id, file_path
from vtrain_schemas.version import SCHEMA_VERSION
from vtrain_sim.errors import UserError
from vtrain_sim.ingest.kineto import read_kineto
from vtrain_sim.ingest.notes import Note, Notes
from vtrain_sim.ingest.nsys import read_nsys
from vtrain_sim.ingest.sources import NSYS, Group, Source, find, groups, unpacked_archive
from vtrain_sim.ingest.table_file import write_pieces
from vtrain_sim.ingest.tables import run_row, tables_of
from vtrain_sim.ingest.trace import Trace

# Raised when a change of the reader makes other rows of the same trace.
READER = 1
# Below this a second process costs more than it saves.
_WORTH_PROCESSES = 64 << 20

Progress: TypeAlias = Callable[[int, int], None]
# Source, run id, rank, and where its tables are written first.
_Task: TypeAlias = tuple[Source, str, int | None, Path]


@dataclass(frozen=True)
class RunReport:
    """What became of one run's traces. notes: over all ranks. unchanged: it had been read before."""

    run_id: str
    ranks: int
    notes: tuple[Note, ...]
    unchanged: bool = False


@dataclass
class Ingested:
    """What `ingest` did. directories: the runs' directories. notices: what was passed over."""

    directories: list[str] = field(default_factory=list)
    runs: list[RunReport] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def ingest(
    locations: Sequence[str],
    out: Path,
    run_id: str = "",
    rank: int | None = None,
    device: str = "",
    processes: int = 1,
    progress: Progress = lambda done, total: None,
    taken: Mapping[str, str] | None = None,
) -> Ingested:
    """Read traces and write them as profiles below `out`.

    locations: files, archives or directories; the ranks of one world in one place make one run. run_id:
    name of the run (default: from the file's or directory's name). rank: rank of a single trace that does
    not say it. device: name of the GPU for traces that do not say it. processes: traces read at a time.
    progress: called with bytes done and in all. taken: where runs are that have a name already. A trace
    that has not changed since is not read again. Raises `UserError`.
    """
    result = Ingested()
    sources = [s for location in locations for s in find(location, result.notices)]
    try:
        name = check_run_id(run_id) if run_id else ""
    except ValueError as error:
        raise UserError(f"--run-id: {error}") from None
    wanted = groups(sources, name, ", ".join(locations), result.notices)
    if rank is not None and (len(wanted) > 1 or len(wanted[0].sources) > 1):
        raise UserError(
            f"--rank says the rank of one trace, but there are {len(sources)}: leave it out, or add them one by one"
        )
    reading = _Reading(rank, device, processes, _Counter(sum(s.size for s in sources), progress))
    for group in wanted:
        if taken and group.run_id in taken:
            raise UserError(
                f"there is a run {group.run_id!r} in the catalog already, from {taken[group.run_id]}: give this one "
                "another name with --run-id"
            )
        directory = out / f"{RUN_PREFIX}{group.run_id}"
        result.runs.append(_ingest_unless_done(group, directory, reading))
        result.directories.append(str(directory))
    return result


@dataclass(frozen=True)
class _Reading:
    """How traces are read: see the arguments of `ingest`."""

    rank: int | None
    device: str
    processes: int
    counter: _Counter

    def provenance(self, group: Group) -> dict[str, object]:
        """What a run is made of, and how: noted with it, so that it need not be read again."""
        return {
            "reader": READER,
            "schema": SCHEMA_VERSION,
            "device": self.device,
            "rank": self.rank,
            "files": [s.identity for s in group.sources],
        }


@dataclass(frozen=True)
class _RankResult:
    """What was read of one rank. run: its row of the runs table."""

    rank: int
    world_size: int
    notes: tuple[Note, ...]
    run: dict[str, object]


class _Counter:
    """Bytes done, for a progress bar. Unpacked bytes may be more than the file has."""

    def __init__(self, total: int, progress: Progress) -> None:
        self.total, self.done, self._progress = total, 0, progress

    def add(self, count: int) -> None:
        self.done += count
        self._progress(min(self.done, self.total), self.total)


def _ingest_unless_done(group: Group, directory: Path, reading: _Reading) -> RunReport:
    """Read and write one run, if its directory does not hold the same already."""
    earlier = _recorded(directory)
    if earlier == reading.provenance(group):
        reading.counter.add(sum(s.size for s in group.sources))
        return RunReport(group.run_id, len(group.sources), (), True)
    _refuse_other(directory, earlier, group)
    return _ingest_group(group, directory, reading)


def _recorded(directory: Path) -> dict[str, object] | None:
    """What an earlier reading noted about its files."""
    for path in sorted(directory.glob("table=runs/*.parquet")):
        try:
            rows = pq.read_table(path, columns=["config_json"]).to_pylist()
            provenance = json.loads(rows[0]["config_json"]) if rows else None
        except (OSError, ValueError, pa.ArrowException):
            continue
        if isinstance(provenance, dict):
            return provenance
    return None


def _refuse_other(directory: Path, earlier: dict[str, object] | None, group: Group) -> None:
    if not directory.exists():
        return
    files = (earlier or {}).get("files")
    before = {str(f.get("path")) for f in files if isinstance(f, dict)} if isinstance(files, list) else set()
    if not before & {str(s.path) for s in group.sources}:
        raise UserError(
            f"run {group.run_id!r} exists already in {directory.parent}, made of "
            f"{', '.join(sorted(before)) or 'something else'}: give this one another name with --run-id"
        )


def _ingest_group(group: Group, directory: Path, reading: _Reading) -> RunReport:
    """Read and write one run."""
    staging = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with unpacked_archive(group.sources) as sources:
            results = _read_all(group, sources, staging, reading)
        first = min(results, key=lambda r: r.rank)
        row = _run_row(group, results, first, reading)
        _write(staging, group.run_id, first.rank, "runs", [pa.Table.from_pylist([row], schema=arrow_schema("runs"))])
        _swap(staging / f"{RUN_PREFIX}{group.run_id}", directory)
    except OSError as error:
        raise UserError(f"cannot write {directory}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    total = Notes()
    for note in (n for r in results for n in r.notes):
        total.add(note.subject, note.outcome, note.reason, note.count, note.example)
    return RunReport(group.run_id, len(results), tuple(total.lines()))


def _run_row(group: Group, results: Sequence[_RankResult], first: _RankResult, reading: _Reading) -> dict[str, object]:
    """The row of the runs table for all ranks. Raises `UserError` where they contradict each other."""
    ranks, device = [r.rank for r in results], reading.device
    if len(set(ranks)) < len(ranks):
        twice = next(r for r in ranks if ranks.count(r) > 1)
        raise UserError(
            f"two of the traces of run {group.run_id!r} say that they are rank {twice}: add them one by one"
        )
    if device and first.run["device_name"] not in (None, device):
        raise UserError(
            f"--device is {device!r}, but run {group.run_id!r} says that it ran on {first.run['device_name']}"
        )
    return {
        **first.run,
        "device_name": first.run["device_name"] or device or None,
        "world_size": max([len(results), *(r.world_size for r in results), *(r.rank + 1 for r in results)]),
        "config_json": json.dumps(reading.provenance(group)),
    }


def _swap(new: Path, place: Path) -> None:
    """Put a directory in its place; an older one goes away only after that."""
    old = place.with_name(f".{place.name}.{os.getpid()}.old")
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _read_all(group: Group, sources: Sequence[Source], staging: Path, reading: _Reading) -> list[_RankResult]:
    rank, counter = reading.rank, reading.counter
    if sources[0].kind == NSYS:
        return _read_reports(group, sources, staging, rank, counter)
    tasks = [(source, group.run_id, rank if rank is not None else source.rank, staging) for source in sources]
    workers = min(reading.processes, len(tasks))
    if workers < 2 or sum(s.size for s in sources) < _WORTH_PROCESSES:
        return [row for task in tasks for row in _read_one(*task, counter.add)]
    return _read_in_processes(group, tasks, workers, counter)


def _read_in_processes(group: Group, tasks: Sequence[_Task], workers: int, counter: _Counter) -> list[_RankResult]:
    context = get_context("spawn")
    shared: Synchronized[int] = context.Value("q", 0)
    results: list[_RankResult] = []
    with ProcessPoolExecutor(workers, context, _share, (shared,)) as pool:
        pending: set[Future[list[_RankResult]]] = {pool.submit(_read_shared, *task) for task in tasks}
        seen = 0
        while pending:
            done, pending = wait(pending, timeout=0.2)
            counter.add(shared.value - seen)
            seen = shared.value
            try:
                results += [row for future in done for row in future.result()]
            except BrokenProcessPool:
                raise UserError(
                    f"a process that read traces of {group.run_id!r} was killed, perhaps for its memory: try "
                    "--processes 1"
                ) from None
    return results


def _read_reports(
    group: Group, sources: Sequence[Source], staging: Path, rank: int | None, counter: _Counter
) -> list[_RankResult]:
    """Reports one after another: how many ranks each holds shows when it is read."""
    results: list[_RankResult] = []
    for source in sources:
        free = max((r.rank + 1 for r in results), default=0)
        given = rank if rank is not None else source.rank if len(sources) > 1 else None
        results += _read_one(source, group.run_id, max(given or 0, free), staging, counter.add)
    return results


# Bytes that all processes have read: set in each of them when it starts.
_shared: Synchronized[int] | None = None


def _share(value: Synchronized[int]) -> None:
    global _shared
    _shared = value


def _read_shared(source: Source, run_id: str, rank: int | None, staging: Path) -> list[_RankResult]:
    def add(count: int) -> None:
        assert _shared is not None
        with _shared.get_lock():
            _shared.value += count

    return _read_one(source, run_id, rank, staging, add)


def _read_one(
    source: Source, run_id: str, rank: int | None, staging: Path, add: Callable[[int], None]
) -> list[_RankResult]:
    """Read one source and write its ranks' tables; what the run's row needs of each."""
    results = []
    for trace in _traces(source, rank, add):
        starts = [t for t in (trace.host, trace.device) if len(t)]
        created = min((int(t.start.min()) for t in starts), default=0)
        for name, pieces in groupby(tables_of(trace, run_id), key=itemgetter(0)):
            _write(staging, run_id, trace.rank, name, (piece for _, piece in pieces))
        run = run_row(run_id, trace, trace.world_size, created, "{}")
        results.append(_RankResult(trace.rank, trace.world_size, tuple(trace.notes.lines()), run))
    return results


def _traces(source: Source, rank: int | None, add: Callable[[int], None]) -> list[Trace]:
    if source.kind == NSYS:
        traces = read_nsys(source.path, rank)
        add(source.size)
        return traces
    with source.open() as (stream, position):
        seen = 0

        def advance(_: int) -> None:
            # Of a packed file, the packed bytes: they are what the size says.
            nonlocal seen
            add(position() - seen)
            seen = position()

        return [read_kineto(stream, source.name, rank, advance)]


def _write(staging: Path, run_id: str, rank: int, name: str, pieces: Iterable[pa.Table]) -> None:
    """Write a table; one without rows has no file. The directory is hidden until all of it is there."""
    path = staging / file_path(run_id, name, rank)
    if not write_pieces(path, name, pieces):
        path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
