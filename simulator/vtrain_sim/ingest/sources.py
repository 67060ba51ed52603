"""Finds traces: files, directories, archives; tells torch.profiler's from Nsight Systems'; groups ranks into runs."""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, BinaryIO, cast

from vtrain_schemas.layout import RUN_PREFIX
from vtrain_sim.errors import UserError
from vtrain_sim.ingest.gunzip import UNREADABLE, Gunzip
from vtrain_sim.ingest.jobs import RANK, by_job, job_of, session_times, time_within
from vtrain_sim.ingest.json_events import peek_metadata
from vtrain_sim.ingest.nsys_export import open_export

KINETO, NSYS = "kineto", "nsys"
# How a remark ends that is about traces that were read.
OWN_RUN = "a run of its own"
_SQLITE = b"SQLite format 3\x00"
_SUFFIXES = (".json", ".json.gz", ".zip", ".tar", ".tar.gz", ".tgz", ".sqlite", ".sqlite3", ".db", ".gz")
_ENDINGS = re.compile(r"(\.pt)?(\.trace)?\.(json|sqlite3?|db|zip|tar|tgz)(\.gz)?$|\.gz$", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """One trace: a file, or a member of an archive. rank, world_size: as far as it or its name says.

    job, began_ns, ended_ns: see `vtrain_sim.ingest.jobs`.
    """

    path: Path
    member: str
    kind: str
    size: int
    modified_ns: int
    rank: int | None = None
    rank_from_name: bool = False
    world_size: int = 0
    job: tuple[str, ...] = ()
    began_ns: int | None = None
    ended_ns: int | None = None

    @property
    def file_name(self) -> str:
        """Its own name, without the place."""
        return Path(self.member or self.path.name).name

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    @property
    def identity(self) -> dict[str, object]:
        """What tells whether it changed."""
        return {"path": str(self.path), "member": self.member, "bytes": self.size, "modified_ns": self.modified_ns}

    @contextmanager
    def open(self) -> Iterator[tuple[BinaryIO, Callable[[], int]]]:
        """The trace's JSON text, unpacked; and how much of the file was read for it so far, bytes."""
        with ExitStack() as opened:
            try:
                raw = opened.enter_context(open(self.path, "rb"))
                stream: IO[bytes] | None = raw
                if self.member and zipfile.is_zipfile(raw):
                    archive = opened.enter_context(zipfile.ZipFile(raw))
                    stream = opened.enter_context(archive.open(self.member))
                elif self.member:
                    raw.seek(0)
                    stream = opened.enter_context(tarfile.open(fileobj=raw)).extractfile(self.member)
                if stream is None:
                    raise UserError(f"{self.name} is no file in the archive")
                text = _unpacked(stream)
            except UNREADABLE as error:
                raise UserError(f"cannot unpack {self.name}: {error}") from None
            yield text, raw.tell


@dataclass(frozen=True)
class Group:
    """The traces of one run."""

    run_id: str
    sources: tuple[Source, ...]


def is_trace(location: str) -> bool:
    """Whether a location names a trace rather than a directory of profiles."""
    path = Path(os.path.expanduser(location))
    if "://" in location or not path.exists():
        return False
    return path.is_file() or (_holds_traces(path) and not _holds_profiles(path))


def find(location: str, notices: list[str]) -> list[Source]:
    """The traces of a file or directory; what was passed over goes into `notices`. Raises `UserError`."""
    # Absolute: a trace is the same one wherever it is named from.
    path = Path(os.path.abspath(os.path.expanduser(location)))
    if path.is_file():
        return _of_file(path)
    sources: list[Source] = []
    unread: list[str] = []
    for file in sorted(p for p in path.rglob("*") if p.is_file() and p.name.lower().endswith(_SUFFIXES)):
        if any(part.startswith(RUN_PREFIX) for part in file.parts):
            continue
        try:
            sources += _of_file(file)
        except UserError as error:
            unread.append(str(error))
    notices += unread
    if not sources and unread:
        more = f" (and {len(unread) - 1:,} more)" if len(unread) > 1 else ""
        raise UserError(f"no trace below {location} can be read: {unread[0]}{more}")
    if not sources:
        raise UserError(
            f"no trace below {location}: expected torch.profiler's .json (.gz, .zip, .tar) or Nsight Systems' .sqlite"
        )
    return sources


def groups(sources: Sequence[Source], run_id: str, location: str, notices: list[str]) -> list[Group]:
    """Sources by run: ranks of one world in one directory or archive belong together, unless they are of several jobs.

    What could not be put together goes into `notices`. Raises `UserError`.
    """
    by_place: dict[tuple[str, int, str], list[Source]] = {}
    for source in sources:
        place = str(source.path) if source.member else str(source.path.parent)
        by_place.setdefault((place, source.world_size, source.kind), []).append(source)
    made: list[Group] = []
    for (place, world, _), members in by_place.items():
        jobs, reasons = by_job(members)
        if reasons and (_is_one_run(world, members) or world > 1):
            notices.append(
                f"{place}: {len(members)} traces of {len(jobs)} jobs, told apart by {' and '.join(reasons)}: each job "
                f"became {OWN_RUN}"
            )
        for job in jobs:
            made += _runs_of(place, world, job, notices)
    if run_id:
        if len(made) > 1:
            raise UserError(
                f"--run-id names one run, but {location} holds {len(made)}: {', '.join(g.run_id for g in made[:4])}"
            )
        return [Group(run_id, made[0].sources)]
    taken: dict[str, int] = {}
    named = []
    for group in made:
        count = taken.get(group.run_id, 0) + 1
        taken[group.run_id] = count
        named.append(Group(group.run_id if count == 1 else f"{group.run_id}-{count}", group.sources))
    return named


def _runs_of(place: str, world: int, members: Sequence[Source], notices: list[str]) -> list[Group]:
    """The runs that traces of one place and world make: one of all ranks, or one of each trace."""
    if _is_one_run(world, members):
        ordered = sorted(members, key=lambda s: (s.rank or 0, s.name))
        return [Group(_name_of(Path(place), members), tuple(ordered))]
    # Two files of one rank cannot be one run: each is one of its own.
    ranks = [s.rank for s in members]
    twice = sorted({r for r in ranks if r is not None and ranks.count(r) > 1})
    if twice and world > 1:
        notices.append(
            f"{place}: {len(members)} traces of {world} ranks, more than one of rank "
            f"{', '.join(map(str, twice[:4]))}: each became {OWN_RUN}"
        )
    return [Group(_stem(s.file_name), (s,)) for s in members]


def _is_one_run(world: int, members: Sequence[Source]) -> bool:
    """Whether traces of one place and world are of different ranks."""
    ranks = [s.rank for s in members]
    different = None not in ranks and len(set(ranks)) == len(ranks) and len(ranks) > 1
    return different and (world > 1 or all(s.rank_from_name for s in members))


def _name_of(place: Path, members: Sequence[Source]) -> str:
    if place.is_file():
        return _stem(place.name)
    stems = [_stem(s.path.name) for s in members]
    alike = next(
        (i for i, letters in enumerate(zip(*stems, strict=False)) if len(set(letters)) > 1), min(map(len, stems))
    )
    common = stems[0][:alike].rstrip("0123456789-_.")
    return _clean(common if len(common) > 3 and not RANK.fullmatch(common + "0") else place.resolve().name)


def _stem(name: str) -> str:
    return _clean(_ENDINGS.sub("", Path(name).name))


def _clean(text: str) -> str:
    """A run id made of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:80] or "trace"


def _holds_profiles(path: Path) -> bool:
    return path.name.startswith(RUN_PREFIX) or any(path.glob(f"**/{RUN_PREFIX}*"))


def _holds_traces(path: Path) -> bool:
    return any(p.is_file() and p.name.lower().endswith(_SUFFIXES) for p in path.rglob("*"))


def _of_file(path: Path) -> list[Source]:
    try:
        stat = path.stat()
        with open(path, "rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if head.startswith(_SQLITE):
        return [_named(_dated(Source(path, "", NSYS, stat.st_size, stat.st_mtime_ns)))]
    if path.name.endswith((".nsys-rep", ".qdrep")):
        raise UserError(f"{path} is Nsight Systems' own format: export it first, nsys export --type sqlite {path}")
    members: list[str] = [""]
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = [i.filename for i in archive.infolist() if not i.is_dir()]
        elif _is_tar(path):
            with tarfile.open(path) as tar:
                members = [m.name for m in tar if m.isfile()]
    except UNREADABLE as error:
        raise UserError(f"{path} is a damaged archive: {error}") from None
    sources, problem = [], ""
    for member in sorted(members):
        if member and not member.lower().endswith((".json", ".json.gz")):
            continue
        try:
            sources.append(_peek(Source(path, member, KINETO, stat.st_size // max(1, len(members)), stat.st_mtime_ns)))
        except UserError as error:
            problem = str(error)
    if not sources:
        raise UserError(problem or f"{path} is an archive without traces (.json, .json.gz)")
    return sources


def _dated(source: Source) -> Source:
    """A report with the times of its session; what else is in it shows when it is read."""
    try:
        with open_export(source.path) as export:
            began_ns, ended_ns = session_times(export)
    except UserError:
        return source
    return replace(source, began_ns=began_ns, ended_ns=ended_ns)


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except UNREADABLE:  # packed, and damaged: perhaps a trace all the same
        return False


def _peek(source: Source) -> Source:
    """The source with the rank and world size that stand before its events, or in its name."""
    with source.open() as (stream, _):
        metadata, head = peek_metadata(stream, source.name)
    source = replace(source, job=job_of(metadata), began_ns=time_within(metadata, head, source.name))
    distributed = metadata.get("distributedInfo")
    distributed = distributed if isinstance(distributed, dict) else {}
    rank, world = distributed.get("rank"), distributed.get("world_size")
    rank = rank if isinstance(rank, int) and 0 <= rank < 1 << 24 else None
    world = world if isinstance(world, int) and 0 < world < 1 << 24 else 0
    if rank is not None and world > 1:
        return replace(source, rank=rank, world_size=world)
    named = _named(replace(source, world_size=world))
    return named if named.rank is not None else replace(named, rank=rank)


def _named(source: Source) -> Source:
    """The source with the rank that its name tells, if it tells one."""
    match = RANK.search(source.file_name)
    if match is None:
        return source
    number = next(int(g) for g in match.groups() if g)
    return replace(source, rank=number, rank_from_name=True) if number < 1 << 24 else source


def _unpacked(stream: IO[bytes]) -> BinaryIO:
    """The stream, through gzip where it begins like that."""
    buffered = io.BufferedReader(cast(io.RawIOBase, stream), 1 << 20)
    if buffered.peek(2)[:2] == b"\x1f\x8b":
        return cast(BinaryIO, Gunzip(cast(BinaryIO, buffered)))
    return cast(BinaryIO, buffered)


@contextmanager
def unpacked_archive(sources: Sequence[Source]) -> Iterator[list[Source]]:
    """Sources whose members of a compressed tar lie unpacked on disk, so that each is read from its beginning."""
    compressed = [s for s in sources if s.member and not zipfile.is_zipfile(s.path)]
    if len(compressed) < 2:
        yield list(sources)
        return
    with tempfile.TemporaryDirectory(prefix="vtrain-traces-") as folder:
        places: dict[tuple[Path, str], Path] = {}
        for path in {s.path for s in compressed}:
            wanted = {s.member for s in compressed if s.path == path}
            try:
                with tarfile.open(path) as tar:
                    for entry in tar:
                        packed = tar.extractfile(entry) if entry.name in wanted else None
                        if packed is not None:
                            place = Path(folder) / f"{len(places)}.json"
                            with open(place, "wb") as out:
                                shutil.copyfileobj(packed, out, 1 << 20)
                            places[path, entry.name] = place
            except UNREADABLE as error:
                raise UserError(f"cannot unpack {path}: {error}") from None
        yield [
            replace(s, path=places[s.path, s.member], member="") if (s.path, s.member) in places else s for s in sources
        ]
