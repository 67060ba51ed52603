"""`Catalog`: the verbs of ``vtrain-catalog`` as a Python API."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import duckdb
import pyarrow as pa

from vtrain_sim.catalog import database
from vtrain_sim.catalog.compaction import check_finished, clear, clear_unfinished, merge
from vtrain_sim.catalog.critical_path import CriticalPath, read_critical_path
from vtrain_sim.catalog.errors import CatalogError
from vtrain_sim.catalog.files import changes, complete, forget, record, recorded
from vtrain_sim.catalog.indexing import mark_copies, merged_meanwhile, update
from vtrain_sim.catalog.listing import describe_run, list_runs
from vtrain_sim.catalog.places import open_place
from vtrain_sim.catalog.problems import Problem, find_problems, of_files
from vtrain_sim.catalog.querying import Limits, run_query, sentence
from vtrain_sim.catalog.reports import AddReport, CompactReport, Detail, RepairReport
from vtrain_sim.catalog.rows import dictionaries
from vtrain_sim.catalog.scan import ProfileFile, judge, scan
from vtrain_sim.catalog.table_views import create_views
from vtrain_sim.catalog.timeline import CapturedTimeline, read_timeline
from vtrain_sim.errors import nearest
from vtrain_sim.ingest import Ingested, ingest, ingest_captured, is_trace
from vtrain_sim.results import Row

# From so many files on opening them takes longer than reading them.
_MANY = 1000
# DuckDB keeps other processes out; threads of one process would change the same rows at a time, and fail.
_ONE_WRITER = Lock()


class Catalog:
    """A DuckDB file that indexes profiles.

    path: the catalog file; `add` creates it. Every method opens and closes the file itself, so
    that several people can read one catalog at a time.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._running: list[duckdb.DuckDBPyConnection] = []

    @property
    def traces(self) -> Path:
        """Where profiles made of imported traces go: a directory beside the catalog."""
        return self.path.with_name(f"{self.path.stem}-traces")

    def add(
        self,
        locations: Sequence[str],
        out: Path | None = None,
        run_id: str = "",
        rank: int | None = None,
        device: str = "",
        processes: int = 1,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> AddReport:
        """Index the profiles below each directory or URI, in one transaction. Idempotent.

        A location may also be a trace of torch.profiler or Nsight Systems, an archive or a directory of
        such: these are read into profiles below `out` (default: `traces`) first, see
        `vtrain_sim.ingest.ingest` for the other arguments. Traces that a capture with ``--kernels`` left in
        a profile become rows of its run. A damaged file is recorded with its
        problem and left out of the tables. Raises `UserError` when a location holds no profile and no
        trace at all; nothing is added then.
        """
        traces = [location for location in locations if is_trace(location)]
        if not traces and (run_id or rank is not None or device):
            raise CatalogError("--run-id, --rank and --device are for traces: a profile says its own")
        made = Ingested()
        if traces:
            place = out or self.traces
            made = ingest(traces, place, run_id, rank, device, processes, progress, self._elsewhere(place))
        profiles = [location for location in locations if location not in traces]
        unread = [notice for location in profiles for notice in ingest_captured(location)]
        places = (*profiles, *made.directories)
        scanned = _once(file for location in places for file in scan(location, self._below(location)))
        with self._writing() as connection:
            files, added = update(connection, scanned, lambda known: _once(f for p in places for f in scan(p, known)))
        local = Counter(f.run_id for f in files if not f.remote)
        return AddReport(
            runs=tuple(sorted({f.run_id for f in files})),
            files_added=len(added),
            files_unchanged=len(files) - len(added),
            rows_added=sum(f.rows for f in added if not f.problem),
            problems=tuple(of_files((f, f.problem) for f in files)),
            ingested=tuple(made.runs),
            notices=(*made.notices, *unread),
            many_files={run: count for run, count in sorted(local.items()) if count >= _MANY},
        )

    def remove(self, run_id: str) -> int:
        """Take a run off the index; how many files it had. Its files stay. Raises `CatalogError` for an unknown run."""
        self._require_catalog()
        with self._writing() as connection:
            self._require_run(connection, run_id)
            files = [f for f in recorded(connection) if f.run_id == run_id]
            forget(connection, files)
        return len(files)

    def repair(self) -> RepairReport:
        """Bring the index to what is there: forget files that are gone, judge anew those that have changed.

        Raises `UserError` where a remote place does not answer; nothing is changed then.
        """
        self._require_catalog()
        with self._writing() as connection:
            files = recorded(connection)
            found = changes(files)
            if found.unreachable:
                raise CatalogError(f"cannot reach {', '.join(found.unreachable)}: nothing was changed")
            doubtful = {f.path for f in files if f.problem} - {f.path for f in (*found.gone, *found.altered)}
            judged = [file for path in sorted(doubtful) if (file := judge(path)) is not None]
            merged, replaced = merged_meanwhile(files)
            gone = {f.path for f in (*found.gone, *replaced)}
            updated = [f for f in (*found.altered, *judged, *merged) if f.path not in gone]
            kept = [f for f in files if f.path not in gone]
            updated = mark_copies(updated, kept)
            forget(connection, [f for f in files if f.path in gone])
            record(connection, updated)
        as_before = {f.path for f in judged if f.problem}
        return RepairReport(
            runs_removed=tuple(sorted({f.run_id for f in files} - {f.run_id for f in (*kept, *updated)})),
            files_removed=len(gone),
            files_updated=sum(f.path not in as_before for f in updated),
            problems=tuple(of_files((f, f.problem) for f in updated)),
        )

    def local_runs(self) -> list[str]:
        """Ids of the runs that have files on a local disk."""
        self._require_catalog()
        return sorted({f.run_id for f in self._recorded() if not f.remote})

    def compact(self, run_id: str) -> CompactReport:
        """Merge a run's many files into one for each table; a query opens each file that it reads.

        Stopped at any point it neither loses nor doubles rows: the merged files take the place of the others in one
        transaction, and only then these are removed. Raises `CatalogError` for an unknown run, and where files have
        changed since they were added; `UserError` where the disk refuses.
        """
        self._require_catalog()
        files = self._of_run(run_id)
        if all(f.remote for f in files):
            raise CatalogError(f"run {run_id} is in object storage: only runs on a local disk are merged")
        self._require_unchanged(run_id, files)
        self._take_in_merged(run_id)
        files = self._of_run(run_id)
        check_finished(files)
        for directory in {f.directory for f in files if not f.remote}:
            clear_unfinished(directory)
        gone = {f.path for f in changes(files).gone}
        merged = list(merge([f for f in files if f.path not in gone]))
        parts = [part for each in merged for part in each.parts]
        if merged:
            with self._writing() as connection:
                # Somebody may have added them anew meanwhile.
                now = {f.path: f for f in recorded(connection)}
                if any(now.get(f.path) != f for f in parts):
                    raise CatalogError(f"run {run_id} was changed by somebody else meanwhile: it is as it was")
                self._require_unchanged(run_id, parts)
                forget(connection, parts)
                record(connection, [each.file for each in merged])
        taken = {f.path for f in parts}
        kept = [f for f in files if f.path not in taken] + [each.file for each in merged]
        for file in kept:
            if file.merged and not (file.remote or file.problem):
                clear(file)
        return CompactReport(run_id, len(files), len(kept), sum(f.bytes for f in files), sum(f.bytes for f in kept))

    def _of_run(self, run_id: str) -> list[ProfileFile]:
        """The files of a run. Raises `CatalogError` for an unknown one."""
        files = self._recorded()
        if not any(f.run_id == run_id for f in files):
            raise self._no_run(run_id, {f.run_id for f in files})
        return [f for f in files if f.run_id == run_id]

    def _take_in_merged(self, run_id: str) -> None:
        """Put what files of a run were merged into meanwhile in their place in the index."""
        if not merged_meanwhile(self._of_run(run_id))[0]:
            return
        with self._writing() as connection:
            merged, replaced = merged_meanwhile([f for f in recorded(connection) if f.run_id == run_id])
            forget(connection, replaced)
            record(connection, merged)

    @staticmethod
    def _require_unchanged(run_id: str, files: Sequence[ProfileFile]) -> None:
        if altered := changes(files).altered:
            raise CatalogError(f"{altered[0].path} of run {run_id} has changed since it was added: add the run again")

    @contextmanager
    def _writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection in a transaction; when it ends, the views are of the files that are there.

        Raises `CatalogError` where the disk refuses: the catalog is as it was then.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with _ONE_WRITER, database.connect(self.path, read_only=False) as connection:
                database.begin(connection)
                yield connection
                self._commit(connection)
        except duckdb.Error as error:
            raise CatalogError(f"cannot write the catalog {self.path}: {sentence(error)}; it is as it was") from None

    @staticmethod
    def _commit(connection: duckdb.DuckDBPyConnection) -> None:
        files = recorded(connection)
        changed = changes(files, remote=False)
        unusable = changed.unusable
        lost = [f._replace(problem=unusable[f.path]) for f in files if f.path in unusable and not f.problem]
        record(connection, (*lost, *changed.returned))
        create_views(connection, changed.usable)
        connection.commit()

    def _below(self, location: str) -> dict[str, ProfileFile]:
        """What the index says of the files of a location, by path."""
        place, root = open_place(location)
        return {f.path: f for f in self._recorded(place.name(root).partition("?")[0])}

    def _recorded(self, below: str = "") -> list[ProfileFile]:
        """The files of the index, or those below a directory; none where there is no catalog yet."""
        if not self.path.exists():
            return []
        with database.connect(self.path, read_only=True) as connection:
            try:
                complete(connection)
            except duckdb.CatalogException:
                return []
            return recorded(connection, below)

    def _elsewhere(self, place: Path) -> dict[str, str]:
        """Runs that lie outside a directory, and where."""
        inside = str(place.absolute()) + "/"
        return {f.run_id: f.run_directory for f in self._recorded() if not f.path.startswith(inside)}

    def runs(self) -> list[Row]:
        """One entry per run: id, source, layout, device, ranks and steps captured, problems."""
        with self._reading() as connection:
            return list_runs(connection)

    def show(self, run_id: str) -> Detail:
        """Everything about one run: its row, ranks, steps, rows per table and problems."""
        with self._reading() as connection:
            self._require_run(connection, run_id)
            return describe_run(connection, run_id)

    def check(self, deep: bool = True) -> list[Problem]:
        """Missing ranks, steps that differ between ranks or whose parts exceed them, clock mismatches, damaged files.

        deep: also read every page of every file.
        """
        with self._reading() as connection:
            return find_problems(connection, deep)

    def timeline(
        self,
        run_id: str,
        step: int | None = None,
        ranks: Collection[int] | None = None,
        microbatches: Collection[int] | None = None,
    ) -> CapturedTimeline:
        """One step of a run, see `read_timeline`; raises `CatalogError` for an unknown run."""
        with self._reading() as connection:
            self._require_run(connection, run_id)
            return read_timeline(connection, run_id, step, ranks, microbatches)

    def critical_path(self, run_id: str, step: int | None = None) -> CriticalPath:
        """The critical path of a step, see `read_critical_path`; raises `CatalogError` for an unknown run."""
        with self._reading() as connection:
            self._require_run(connection, run_id)
            return read_critical_path(connection, run_id, step)

    def sql(self, query: str, limits: Limits = Limits()) -> pa.Table:
        """Run queries, and nothing else, over the indexed files within limits; the rows of the last one.

        Raises `CatalogError` for what is no query, on an error and beyond a limit.
        """
        if not query.strip():
            raise CatalogError("the query is empty")
        with self._reading(limits.memory) as connection:
            self._running.append(connection)
            try:
                return run_query(connection, query, limits)
            finally:
                self._running.remove(connection)

    def interrupt(self) -> bool:
        """Stop the queries that run in other threads of this process; whether there was one."""
        running = list(self._running)
        for connection in running:
            connection.interrupt()
        return bool(running)

    def schema(self) -> list[Row]:
        """Every table and view with its columns, types and comments."""
        with self._reading() as connection:
            return dictionaries(
                connection.execute(
                    """
                    SELECT c.table_name, v.comment AS table_comment, c.column_name, c.data_type, c.comment
                    FROM duckdb_columns() c
                    LEFT JOIN duckdb_views() v
                        ON v.view_name = c.table_name AND v.schema_name = c.schema_name
                    WHERE NOT c.internal AND c.schema_name = 'main' AND c.database_name NOT IN ('system', 'temp')
                    ORDER BY c.table_name, c.column_index
                    """
                )
            )

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A confined read-only connection, for code that runs several queries."""
        with self._reading() as connection:
            yield connection

    @contextmanager
    def _reading(self, memory: str = "") -> Iterator[duckdb.DuckDBPyConnection]:
        self._require_catalog()
        with database.connect_confined(self.path, memory) as connection:
            try:
                yield connection
            except duckdb.InterruptException:
                raise
            except duckdb.Error as error:
                raise CatalogError(
                    f"cannot read the profiles of {self.path}: {sentence(error)}; vtrain-catalog check looks for damage"
                ) from None

    def _require_catalog(self) -> None:
        if not self.path.exists():
            raise CatalogError(
                f"there is no catalog {self.path}: create it with vtrain-catalog add DIR --catalog {self.path}"
            )

    def _require_run(self, connection: duckdb.DuckDBPyConnection, run_id: str) -> None:
        known = {r[0] for r in connection.execute("SELECT DISTINCT run_id FROM files").fetchall()}
        if run_id not in known:
            raise self._no_run(run_id, known)

    def _no_run(self, run_id: str, known: Collection[str]) -> CatalogError:
        return CatalogError(f"there is no run {run_id!r} in {self.path}{nearest(run_id, sorted(known))}")


def _once(files: Iterable[ProfileFile]) -> list[ProfileFile]:
    """Each file once: one location may be below another."""
    return list({file.path: file for file in files}.values())
