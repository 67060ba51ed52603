"""One captured step, read from the catalog: what each rank did, and when."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import duckdb

from vtrain_schemas.operators import DIMENSIONS
from vtrain_sim.catalog.rows import dictionaries
from vtrain_sim.errors import UserError
from vtrain_sim.results import Document, Result, Row

SCHEMA = "vtrain.captured-timeline/1"
# Of a trace without steps: everything is outside them.
OUTSIDE = -1
_OF_RANK = "run_id = $run AND step = $step AND rank = $rank"


@dataclass(frozen=True)
class CapturedRank:
    """One rank of a captured step: rows of the tables, with ``start_ns`` from the Unix epoch.

    stage, host: its pipeline stage and host; None where a trace does not say it. start_ns, duration_ns: of the step.
    peak_bytes: peak memory in use since the process began; None where it is not known.
    """

    rank: int
    stage: int | None
    host: str | None
    start_ns: int
    duration_ns: int
    peak_bytes: int | None
    spans: tuple[Row, ...]
    operators: tuple[Row, ...]
    collectives: tuple[Row, ...]
    kernels: tuple[Row, ...]


@dataclass(frozen=True, repr=False)
class CapturedTimeline(Result):
    """One step of a captured run, of some of its ranks.

    source: what wrote the run. step: -1 for a trace that marks no steps. ranks: by stage.

    >>> import vtrain as vt
    >>> timeline = vt.Catalog("vtrain.duckdb").timeline("base")
    >>> timeline.ranks[0].stage, timeline.ranks[0].duration_ns > 0
    (0, True)
    """

    run_id: str
    source: str
    step: int
    ranks: tuple[CapturedRank, ...]

    @property
    def begin_ns(self) -> int:
        """When the first of the ranks begins the step, since the Unix epoch.

        >>> import vtrain as vt
        >>> vt.Catalog("vtrain.duckdb").timeline("base").begin_ns > 0
        True
        """
        return min(rank.start_ns for rank in self.ranks)

    def of_stages(self, stages: Collection[int] | None) -> CapturedTimeline:
        """The same without the ranks of other stages; None: all. Raises `UserError` where none is left, or where the
        run does not say which stages its ranks are.

        >>> import vtrain as vt
        >>> len(vt.Catalog("vtrain.duckdb").timeline("base").of_stages([0]).ranks)
        1
        """
        ranks = tuple(rank for rank in self.ranks if stages is None or rank.stage in stages)
        if not ranks and all(rank.stage is None for rank in self.ranks):
            raise UserError(f"run {self.run_id!r} does not say which stages its ranks are: leave --stages out")
        if not ranks:
            raise UserError(f"run {self.run_id!r} has no captured rank on these stages")
        return replace(self, ranks=ranks)

    def summary(self) -> dict[str, object]:
        """Run, step, ranks and the longest duration."""
        longest_ns = max(rank.duration_ns for rank in self.ranks)
        return {"run": self.run_id, "step": self.step, "ranks": len(self.ranks), "step_s": longest_ns / 1e9}

    def rows(self) -> list[Row]:
        """One row per span, collective and kernel; times in seconds from the beginning of the step."""
        return [
            {
                "rank": rank.rank,
                "stage": rank.stage,
                "table": table,
                "name": row.get("name") or row["op"],
                **self._at(row),
            }
            for rank in self.ranks
            for table, rows in (("spans", rank.spans), ("collectives", rank.collectives), ("kernels", rank.kernels))
            for row in rows
        ]

    def _at(self, row: Row) -> Row:
        duration_ns = row["duration_ns"]
        seconds = None if duration_ns is None else duration_ns / 1e9
        return {"start_s": (row["start_ns"] - self.begin_ns) / 1e9, "duration_s": seconds}

    def to_dict(self) -> Document:
        """The machine-readable result, schema vtrain.captured-timeline/1."""
        return {"schema": SCHEMA, **self.summary(), "spans": self.rows()}


def read_timeline(
    connection: duckdb.DuckDBPyConnection,
    run_id: str,
    step: int | None = None,
    ranks: Collection[int] | None = None,
    microbatches: Collection[int] | None = None,
) -> CapturedTimeline:
    """A step of a run that the catalog has.

    step: default: the one of middle duration. ranks: default: the lowest captured one of each stage. microbatches:
    those that are kept, with what is done once per step. Raises `UserError` where one of them was not captured.
    """
    sources = connection.execute("SELECT source FROM runs WHERE run_id = ?", [run_id]).fetchall()
    chosen = chosen_step(connection, run_id, step)
    of_ranks = dictionaries(
        connection.execute("SELECT rank, pp_rank, host FROM ranks WHERE run_id = ? ORDER BY pp_rank, rank", [run_id])
    )
    if not of_ranks:
        raise UserError(f"run {run_id!r} has no ranks: it is no capture of a training step")
    wanted = set(ranks) if ranks is not None else {row["rank"] for row in _first_of_stages(of_ranks)}
    missing = sorted(wanted - {row["rank"] for row in of_ranks})
    if missing:
        known = ", ".join(str(row["rank"]) for row in sorted(of_ranks, key=lambda row: int(row["rank"]))[:20])
        raise UserError(f"rank {missing[0]} of run {run_id!r} was not captured: the catalog has {known}")
    read = tuple(_rank(connection, run_id, chosen, row, microbatches) for row in of_ranks if row["rank"] in wanted)
    return CapturedTimeline(run_id, str(sources[0][0]) if sources else "", chosen, read)


def chosen_step(connection: duckdb.DuckDBPyConnection, run_id: str, step: int | None) -> int:
    """A step of a run: the one that is asked for, or the one of middle duration; `OUTSIDE` where there is none.

    Raises `UserError` where the asked one was not captured.
    """
    rows = connection.execute(
        "SELECT step, max(duration_ns) AS ns FROM steps WHERE run_id = ? AND step >= 0 GROUP BY step ORDER BY ns",
        [run_id],
    ).fetchall()
    steps = [int(row[0]) for row in rows]
    if step is None:
        return steps[(len(steps) - 1) // 2] if steps else OUTSIDE
    if step not in steps:
        captured = ", ".join(map(str, sorted(steps)[:20])) or "none"
        raise UserError(f"step {step} of run {run_id!r} was not captured: the catalog has {captured}")
    return step


def _first_of_stages(of_ranks: list[Row]) -> list[Row]:
    first: dict[int | None, Row] = {}
    for row in of_ranks:
        first.setdefault(row["pp_rank"], row)
    return list(first.values())


def _rank(
    connection: duckdb.DuckDBPyConnection,
    run_id: str,
    step: int,
    of_rank: Row,
    microbatches: Collection[int] | None,
) -> CapturedRank:
    values = {"run": run_id, "step": step, "rank": of_rank["rank"]}

    def rows(table: str, columns: str) -> tuple[Row, ...]:
        query = f"SELECT {columns} FROM {table} WHERE {_OF_RANK} ORDER BY start_ns"
        return tuple(dictionaries(connection.execute(query, values)))

    spans = rows(
        "spans",
        "span_id, parent_id, name, kind, phase, layer_number, microbatch, chunk, start_ns, duration_ns, self_ns, "
        "host_start_ns, host_duration_ns, stream",
    )
    collectives = rows(
        "collectives",
        "op, role, bytes, dtype, group_ranks, sequence, is_async, start_ns, duration_ns, exposed_ns, stream, span_id",
    )
    operators = rows(
        "operators", f"span_id, name, kind, phase, dtype, {', '.join(DIMENSIONS)}, flops, bytes, start_ns, duration_ns"
    )
    kernels = rows("kernels", "name, kind, device, stream, operator, span_id, start_ns, duration_ns")
    if microbatches is not None:
        dropped = {s["span_id"] for s in spans if s["microbatch"] is not None and s["microbatch"] not in microbatches}
        spans, collectives, operators, kernels = (
            tuple(row for row in table if row["span_id"] not in dropped)
            for table in (spans, collectives, operators, kernels)
        )
    steps = dictionaries(
        connection.execute(
            f"SELECT start_ns, duration_ns, peak_allocated_bytes AS peak FROM steps WHERE {_OF_RANK}", values
        )
    )
    begin_ns, end_ns, peak = _window(steps, (*spans, *collectives, *kernels), run_id)
    return CapturedRank(
        int(of_rank["rank"]),
        of_rank["pp_rank"],
        of_rank["host"],
        begin_ns,
        end_ns - begin_ns,
        peak,
        spans,
        operators,
        collectives,
        kernels,
    )


def _window(steps: list[Row], rows: tuple[Row, ...], run_id: str) -> tuple[int, int, int | None]:
    """Begin and end of a rank's step, ns, and its peak memory; without a step, of all that it has."""
    if steps:
        (step,) = steps[:1]
        return step["start_ns"], step["start_ns"] + step["duration_ns"], step["peak"]
    if not rows:
        raise UserError(f"run {run_id!r} has nothing with a time in it: there is no timeline of it")
    begin_ns = min(row["start_ns"] for row in rows)
    return begin_ns, max(row["start_ns"] + (row["duration_ns"] or 0) for row in rows), None
