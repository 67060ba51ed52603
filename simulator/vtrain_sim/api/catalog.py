"""``Catalog``: the verbs of ``vtrain-catalog``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vtrain_sim import catalog as indexed
from vtrain_sim.api.lists import numbers
from vtrain_sim.catalog.critical_path import CriticalPath
from vtrain_sim.catalog.results import (
    Added,
    Compacted,
    Problems,
    QueryResult,
    Removed,
    Repaired,
    RunDetail,
    Runs,
    Schema,
)
from vtrain_sim.catalog.run import CapturedRun
from vtrain_sim.catalog.timeline import CapturedTimeline
from vtrain_sim.errors import UserError, nearest


class Catalog:
    """A DuckDB file that indexes profiles; Parquet stays where it is. path: the file; `add` creates it.

    >>> import vtrain as vt
    >>> catalog = vt.Catalog("vtrain.duckdb")
    >>> catalog.sql("SELECT count(*) AS steps FROM steps").rows()[0]["steps"] > 0
    True
    """

    def __init__(self, path: str | Path = "vtrain.duckdb") -> None:
        self.path = Path(path)
        self._catalog = indexed.Catalog(self.path)

    def __repr__(self) -> str:
        return f"Catalog({str(self.path)!r})"

    def add(
        self,
        locations: str | Path | Sequence[str | Path],
        out: str | Path | None = None,
        run_id: str = "",
        rank: int | None = None,
        device: str = "",
        processes: int = 0,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Added:
        """Index profiles, and read other profilers' traces into profiles; adding twice changes nothing.

        locations: directories or URIs that the plugin wrote to, or traces (torch.profiler, Nsight Systems). out: where
        profiles made of traces go. run_id, rank, device: of a trace that does not say them. processes: traces read at a
        time (0: one per core). progress: called with the bytes read and all bytes. Raises `UserError`.

        >>> import vtrain as vt
        >>> vt.Catalog("new.duckdb").add("profiles").summary()["runs"] > 0
        True
        """
        places = [locations] if isinstance(locations, (str, Path)) else locations
        target = Path(out) if out is not None else None
        cores = processes or os.cpu_count() or 1
        report = self._catalog.add([str(p) for p in places], target, run_id, rank, device, cores, progress)
        return Added(str(self.path), report)

    def remove(self, run: str) -> Removed:
        """Take a run off the index; its files stay. Raises `UserError` for an unknown run, with the nearest.

        >>> import vtrain as vt
        >>> vt.Catalog("other.duckdb").add("profiles").summary()["runs"] > 0
        True
        >>> vt.Catalog("other.duckdb").remove("base").summary()["run_id"]
        'base'
        """
        return Removed(str(self.path), run, self._catalog.remove(run))

    def repair(self) -> Repaired:
        """Forget files that are gone, and judge anew those that have changed since they were added.

        Raises `UserError` where a remote place does not answer; nothing is changed then.

        >>> import vtrain as vt
        >>> vt.Catalog("vtrain.duckdb").repair().summary()["files_removed"]
        0
        """
        return Repaired(str(self.path), self._catalog.repair())

    def compact(self, runs: str | Sequence[str] = ()) -> Compacted:
        """Merge the many files of runs (default: all on a local disk) into one for each table; queries open fewer then.

        Stopped at any point it neither loses nor doubles rows. Raises `UserError` for an unknown run, with the nearest,
        and for one whose files have changed since they were added.

        >>> import vtrain as vt
        >>> vt.Catalog("vtrain.duckdb").compact("base").rows()[0]["run_id"]
        'base'
        """
        chosen = [runs] if isinstance(runs, str) else list(runs) or self._catalog.local_runs()
        return Compacted(str(self.path), tuple(self._catalog.compact(run) for run in chosen))

    def ls(self) -> Runs:
        """The runs: id, source, device, layout, ranks and steps captured.

        >>> import vtrain as vt
        >>> "base" in [run["run_id"] for run in vt.Catalog("vtrain.duckdb").ls().rows()]
        True
        """
        return Runs(tuple(self._catalog.runs()))

    def show(self, run: str) -> RunDetail:
        """One run: configuration, tables, ranks, steps, time on the GPU, problems.

        Raises `UserError` for an unknown run, with the nearest.

        >>> import vtrain as vt
        >>> vt.Catalog("vtrain.duckdb").show("base").rows()[0]["duration_ns"] > 0
        True
        """
        return RunDetail(run, self._catalog.show(run))

    def check(self) -> Problems:
        """Missing ranks, clock or step mismatches, files that are gone, changed or damaged; false where there is none.

        >>> import vtrain as vt
        >>> bool(vt.Catalog("vtrain.duckdb").check())
        False
        """
        return Problems(tuple(self._catalog.check()))

    def sql(self, query: str, timeout_s: float = 300.0, memory: str = "50%") -> QueryResult:
        """Query the profiles with SQL; read-only, and without access to anything but the indexed files.

        timeout_s: seconds after which a query is stopped; 0: never. memory: what a query may take, 4GB or a share of
        the machine's. Raises `UserError` with the database's sentence for a query that fails.

        >>> import vtrain as vt
        >>> vt.Catalog("vtrain.duckdb").sql("SELECT min(rank) AS first FROM steps").rows()
        [{'first': 0}]
        """
        return QueryResult(self._catalog.sql(query, indexed.Limits(timeout_s, memory)))

    def timeline(
        self,
        run: str,
        step: int | None = None,
        ranks: int | Iterable[int] | None = None,
        microbatches: int | Iterable[int] | None = None,
    ) -> CapturedTimeline:
        """One captured step, to lay beside a simulated one (`vtrain.save_trace`).

        step: default: the one of middle duration. ranks: default: the lowest captured one of each stage. microbatches:
        those that are kept, with what is done once per step. Raises `UserError` for what was not captured.

        >>> import vtrain as vt
        >>> vt.Catalog("vtrain.duckdb").timeline("base", microbatches=[0]).ranks[0].rank
        0
        """
        chosen = (
            None if value is None else numbers(name, value)
            for name, value in (("ranks", ranks), ("microbatches", microbatches))
        )
        return self._catalog.timeline(run, step, *chosen)

    def critical_path(self, run: str, step: int | None = None) -> CriticalPath:
        """What made a captured step as long as it was: the chain of work over the ranks that ends with the last one.

        step: default: the one of middle duration. Raises `UserError` for what was not captured.

        >>> import vtrain as vt
        >>> vt.Catalog("vtrain.duckdb").critical_path("base").summary()["ranks_on_path"]
        1
        """
        return self._catalog.critical_path(run, step)

    def captured(self, run: str) -> CapturedRun:
        """A run as something to compare with (`vtrain.compare`).

        >>> import vtrain as vt
        >>> catalog = vt.Catalog("vtrain.duckdb")
        >>> vt.compare(catalog.captured("base"), vt.job.from_run(catalog, "base")).a.captured
        True
        """
        return CapturedRun(self._catalog, run)

    def interrupt(self) -> bool:
        """Stop the queries that run in other threads; whether there was one.

        >>> import vtrain as vt
        >>> vt.Catalog("vtrain.duckdb").interrupt()
        False
        """
        return self._catalog.interrupt()

    def schema(self, name: str = "") -> Schema:
        """The tables and views: every column, its type and meaning (name: of one only). Raises `UserError`.

        >>> import vtrain as vt
        >>> "duration_ns" in [c["column_name"] for c in vt.Catalog("vtrain.duckdb").schema("steps").rows()]
        True
        """
        columns = self._catalog.schema()
        known = sorted({c["table_name"] for c in columns})
        if name and name not in known:
            raise UserError(f"there is no table or view {name!r}{nearest(name, known)}")
        return Schema(tuple(c for c in columns if name in ("", c["table_name"])))
