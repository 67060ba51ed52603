"""From traces on disk to profiles on disk: one run at a time, each written whole or not at all."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from vtrain_schemas import TABLES, arrow_schema
from vtrain_schemas.layout import RUN_PREFIX, check_run_id, file_path
from vtrain_schemas.version import SCHEMA_VERSION
from vtrain_sim.errors import UserError
from vtrain_sim.ingest.inferred_groups import infer_groups
from vtrain_sim.ingest.kineto import record_kineto
from vtrain_sim.ingest.kineto_values import MOST_RANKS
from vtrain_sim.ingest.notes import Note, Notes
from vtrain_sim.ingest.nsys import read_nsys
from vtrain_sim.ingest.provenance import Recorded, recorded, text_of
from vtrain_sim.ingest.recording import Recording
from vtrain_sim.ingest.reports import Ingested, RunReport
from vtrain_sim.ingest.sources import NSYS, Group, Source, find, groups, unpacked_archive
from vtrain_sim.ingest.table_file import write_tables
from vtrain_sim.ingest.tables import run_row, tables_of
from vtrain_sim.ingest.workers import in_processes

# Raised when a change of the reader makes other rows of the same trace.
READER = 2
# Below this a second process costs more than it saves.
_WORTH_PROCESSES = 64 << 20

Progress: TypeAlias = Callable[[int, int], None]


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
    that has not changed since is not read again, as long as its tables are there. A trace that cannot be read is a
    notice where there are others. Raises `UserError` where nothing can be read.
    """
    result = Ingested()
    sources = _find_all(locations, result.notices)
    try:
        name = check_run_id(run_id) if run_id else ""
    except ValueError as error:
        raise UserError(f"--run-id: {error}") from None
    wanted = groups(sources, name, ", ".join(locations), result.notices)
    if rank is not None:
        _check_rank(rank, sources)
    reading = _Reading(rank, device, processes, _Counter(sum(s.size for s in sources), progress))
    for group in wanted:
        try:
            _refuse_taken(group, taken or {})
            directory = out / f"{RUN_PREFIX}{group.run_id}"
            report = _ingest_unless_done(group, directory, reading)
        except _NotWrittenError:
            raise
        except UserError as error:
            if len(wanted) == 1:
                raise
            result.notices.append(str(error))
            continue
        result.runs.append(report)
        result.notices += report.not_read
        result.directories.append(str(directory))
    if not result.runs:
        raise UserError(f"none of the {len(wanted)} traces can be read; the first: {result.notices[0]}")
    return result


def _check_rank(rank: int, sources: Sequence[Source]) -> None:
    """Raise `UserError` for a rank that the one trace cannot be."""
    if len(sources) > 1:
        raise UserError(
            f"--rank says the rank of one trace, but there are {len(sources)}: leave it out, or add them one by one"
        )
    world = sources[0].world_size or MOST_RANKS
    if not 0 <= rank < world:
        whose = f"{sources[0].name} is of a world of {world} ranks" if sources[0].world_size else "no world is larger"
        raise UserError(f"--rank is {rank}: it must be from 0 to {world - 1}, as {whose}")


class _NotWrittenError(UserError):
    """The disk refuses a run: it would the next one, too."""


def _find_all(locations: Sequence[str], notices: list[str]) -> list[Source]:
    """The traces of all locations. Raises `UserError` where the only one, or every one, holds none."""
    answers = [_found_or_refused(location, notices) for location in locations]
    sources = [source for answer in answers if not isinstance(answer, UserError) for source in answer]
    refused = [answer for answer in answers if isinstance(answer, UserError)]
    if refused and not sources:
        raise refused[0]
    notices += map(str, refused)
    return sources


def _found_or_refused(location: str, notices: list[str]) -> list[Source] | UserError:
    try:
        return find(location, notices)
    except UserError as error:
        return error


def _refuse_taken(group: Group, taken: Mapping[str, str]) -> None:
    if group.run_id in taken:
        raise UserError(
            f"there is a run {group.run_id!r} in the catalog already, from {taken[group.run_id]}: give this one "
            "another name with --run-id"
        )


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


# What was read of one source, or why nothing was.
_Answer: TypeAlias = list[_RankResult] | str


class _Counter:
    """Bytes done, for a progress bar. Unpacked bytes may be more than the file has."""

    def __init__(self, total: int, progress: Progress) -> None:
        self.total, self.done, self._progress = total, 0, progress

    def add(self, count: int) -> None:
        self.done += count
        self._progress(min(self.done, self.total), self.total)


def _ingest_unless_done(group: Group, directory: Path, reading: _Reading) -> RunReport:
    """Read and write one run, if its directory does not hold the same already."""
    earlier = recorded(directory)
    if earlier is not None and earlier.made_of == reading.provenance(group) and earlier.is_whole(directory):
        reading.counter.add(sum(s.size for s in group.sources))
        return RunReport(group.run_id, len(group.sources) - len(earlier.not_read), (), True, earlier.not_read)
    _refuse_other(directory, earlier, group)
    return _ingest_group(group, directory, reading)


def _refuse_other(directory: Path, earlier: Recorded | None, group: Group) -> None:
    if not directory.exists():
        return
    before = earlier.traces() if earlier is not None else set()
    if not before & {str(s.path) for s in group.sources}:
        raise UserError(
            f"run {group.run_id!r} exists already in {directory.parent}, made of "
            f"{', '.join(sorted(before)) or 'something else'}: give this one another name with --run-id"
        )


def _ingest_group(group: Group, directory: Path, reading: _Reading) -> RunReport:
    """Read and write one run."""
    _remove_abandoned(directory.parent)
    staging = directory.with_name(f".{directory.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    new = staging / f"{RUN_PREFIX}{group.run_id}"
    not_read: list[str] = []
    try:
        with unpacked_archive(group.sources) as sources:
            results = _read_all(group, sources, staging, reading, not_read)
        first = min(results, key=lambda r: r.rank)
        results = _with_groups(group, staging, results)
        new.mkdir(parents=True, exist_ok=True)
        row = _run_row(group, results, first, reading)
        row["config_json"] = text_of(reading.provenance(group), new, not_read)
        runs = pa.Table.from_pylist([row], schema=arrow_schema("runs"))
        write_tables([("runs", runs)], {"runs": staging / file_path(group.run_id, "runs", first.rank)})
        _swap(new, directory)
    except OSError as error:
        raise _NotWrittenError(f"cannot write {directory}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    total = Notes()
    for note in (n for r in results for n in r.notes):
        total.add(note.subject, note.outcome, note.reason, note.count, note.example)
    return RunReport(group.run_id, len(results), tuple(total.lines()), False, tuple(not_read))


def _with_groups(group: Group, staging: Path, results: Sequence[_RankResult]) -> list[_RankResult]:
    """The results, after groups that no trace names were inferred where all ranks of the world are there."""
    # A report of Nsight Systems does not say how large the world is.
    worlds = {r.world_size for r in results} if group.sources[0].kind != NSYS else set()
    devices = results[0].run["devices_per_host"]
    ranks = {r.rank for r in results}
    inferred = infer_groups(staging, group.run_id, ranks, worlds, devices if isinstance(devices, int) else 0)
    return [replace(r, notes=(*r.notes, *inferred.get(r.rank, ()))) for r in results]


def _remove_abandoned(place: Path) -> None:
    """Remove what readings on this host left that were killed."""
    for path in place.glob(f".{RUN_PREFIX}*.{socket.gethostname()}.*.tmp"):
        number = path.name.split(".")[-2]
        if number.isdigit() and not _is_running(int(number)):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


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
    }


def _swap(new: Path, place: Path) -> None:
    """Put a directory in its place; an older one goes away only after that."""
    old = place.with_name(f".{place.name}.{os.getpid()}.old")
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _read_all(
    group: Group, sources: Sequence[Source], staging: Path, reading: _Reading, not_read: list[str]
) -> list[_RankResult]:
    """Read every source. not_read: takes in why one cannot be, where another can. Raises `UserError` if none can."""
    rank, counter = reading.rank, reading.counter
    answers: Iterable[_Answer]
    if sources[0].kind == NSYS:
        answers = _read_reports(group, sources, staging, rank, counter)
    else:
        tasks = [(source, group.run_id, rank if rank is not None else source.rank, staging) for source in sources]
        workers = min(reading.processes, len(tasks))
        if workers < 2 or sum(s.size for s in sources) < _WORTH_PROCESSES:
            answers = (_read_one(*task, counter.add) for task in tasks)
        else:
            answers = in_processes(_read_one, tasks, workers, staging, counter.add)
    results: list[_RankResult] = []
    try:
        for answer in answers:
            if isinstance(answer, str):
                not_read.append(answer)
            else:
                results += answer
    except BrokenProcessPool:
        raise UserError(
            f"a process that read traces of {group.run_id!r} was killed, perhaps for its memory: try --processes 1"
        ) from None
    not_read.sort()
    if not results:
        raise UserError(not_read[0])
    return results


def _read_reports(
    group: Group, sources: Sequence[Source], staging: Path, rank: int | None, counter: _Counter
) -> Iterator[_Answer]:
    """Reports one after another: how many ranks each holds shows when it is read."""
    free = 0
    for source in sources:
        given = rank if rank is not None else source.rank if len(sources) > 1 else None
        answer = _read_one(source, group.run_id, max(given or 0, free), staging, counter.add)
        if not isinstance(answer, str):
            free = max([free, *(r.rank + 1 for r in answer)])
        yield answer


def _read_one(source: Source, run_id: str, rank: int | None, staging: Path, add: Callable[[int], None]) -> _Answer:
    """Read one source and write its ranks' tables; what the run's row needs of each, or why it cannot be read."""
    results: list[_RankResult] = []
    trace: Recording | None = None
    try:
        for trace in _traces(source, rank, staging, add):
            results.append(_write_trace(trace, run_id, staging))
    except UserError as error:
        why = str(error)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # damage takes forms that no reader foresees
        why = f"{source.name} cannot be read: {type(error).__name__}: {error}"
    else:
        return results
    for written in {r.rank for r in results} | ({trace.rank} if trace is not None else set()):
        for place in _places(staging, run_id, written).values():
            place.unlink(missing_ok=True)
    return why


def _write_trace(trace: Recording, run_id: str, staging: Path) -> _RankResult:
    write_tables(tables_of(trace, run_id), _places(staging, run_id, trace.rank))
    head = trace.head
    run = run_row(run_id, head, head.world_size, trace.facts.begin if head.dated else None, "{}")
    return _RankResult(head.rank, head.world_size, tuple(head.notes.lines()), run)


def _places(staging: Path, run_id: str, rank: int) -> dict[str, Path]:
    """Files of a rank's tables but the run's own. The directory is hidden until all of them are there."""
    return {name: staging / file_path(run_id, name, rank) for name in TABLES if name != "runs"}


def _traces(source: Source, rank: int | None, staging: Path, add: Callable[[int], None]) -> Iterator[Recording]:
    """What one source holds, by rank. staging: where there is room on disk for what does not fit into memory."""
    if source.kind == NSYS:
        traces = read_nsys(source.path, rank)
        add(source.size)
        yield from map(Recording.of, traces)
        return
    with source.open() as (stream, position):
        seen = 0

        def advance(_: int) -> None:
            # Of a packed file, the packed bytes: they are what the size says.
            nonlocal seen
            add(position() - seen)
            seen = position()

        staging.mkdir(parents=True, exist_ok=True)
        recording = record_kineto(stream, source.name, rank, advance, staging)
    yield recording
