"""What made a captured step as long as it was: its critical path over the ranks."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cache

import duckdb

from vtrain_sim.catalog.activities import CapturedStep
from vtrain_sim.catalog.path_walk import Piece, RankLine, walk
from vtrain_sim.catalog.timeline import chosen_step
from vtrain_sim.errors import UserError
from vtrain_sim.results import Document, Result, Row

SCHEMA = "vtrain.critical-path/1"


@dataclass(frozen=True, repr=False)
class CriticalPath(Result):
    """The critical path of one captured step: the chain of work, transfers and gaps, over the ranks, that ends with the
    rank that ended last.

    seen: kernels where the device's are known, else spans. step_ns: duration of the step on the rank that ended last.
    pieces: in order of time, each on its rank's clock. ranks: all captured ones.

    >>> import vtrain as vt
    >>> path = vt.Catalog("vtrain.duckdb").critical_path("base")
    >>> path.path_ns == path.step_ns
    True
    """

    run_id: str
    step: int
    seen: str
    step_ns: int
    pieces: tuple[Piece, ...]
    ranks: int

    @property
    def path_ns(self) -> int:
        """Length of the path: of all pieces together."""
        return sum(piece.duration_ns for piece in self.pieces)

    @property
    def rank_changes(self) -> int:
        """How often the path goes on with another rank."""
        return sum(piece.waited_for is not None for piece in self.pieces)

    @property
    def by_kind_ns(self) -> dict[str, int]:
        """Time on the path by kind of piece, the longest first."""
        times: defaultdict[str, int] = defaultdict(int)
        for piece in self.pieces:
            times[piece.kind] += piece.duration_ns
        return dict(sorted(times.items(), key=lambda item: -item[1]))

    def summary(self) -> dict[str, object]:
        """Run, step, length of the path, how often it changes ranks, and the time by kind."""
        return {
            "run": self.run_id,
            "step": self.step,
            "path_s": self.path_ns / 1e9,
            "step_s": self.step_ns / 1e9,
            "ranks": self.ranks,
            "ranks_on_path": len({piece.rank for piece in self.pieces}),
            "rank_changes": self.rank_changes,
            **{f"{kind}_s": ns / 1e9 for kind, ns in self.by_kind_ns.items()},
        }

    def rows(self) -> list[Row]:
        """One row per rank and kind of work, what takes longest first; duration_s in seconds, share of the path."""
        parts: defaultdict[tuple[int, str, str, str], list[int]] = defaultdict(list)
        for piece in self.pieces:
            parts[piece.rank, piece.kind, piece.name, piece.phase].append(piece.duration_ns)
        names = ("rank", "kind", "name", "phase")
        whole = self.path_ns
        return [
            {
                **{name: value if value != "" else None for name, value in zip(names, key, strict=True)},
                "calls": len(durations),
                "duration_s": sum(durations) / 1e9,
                "share": sum(durations) / whole if whole else 0.0,
            }
            for key, durations in sorted(parts.items(), key=lambda item: -sum(item[1]))
        ]

    def to_dict(self) -> Document:
        """The machine-readable result, schema vtrain.critical-path/1; at_s of a piece is from the begin of the path."""
        pieces, at_ns = [], 0
        for piece in self.pieces:
            pieces.append({**vars(piece), "phase": piece.phase or None, "at_s": at_ns / 1e9})
            at_ns += piece.duration_ns
        return {"schema": SCHEMA, **self.summary(), "seen": self.seen, "parts": self.rows(), "pieces": pieces}


def read_critical_path(connection: duckdb.DuckDBPyConnection, run_id: str, step: int | None = None) -> CriticalPath:
    """The critical path of a step of a run that the catalog has. step: default: the one of middle duration.

    Raises `UserError` where the step was not captured, or where the run has no steps.
    """
    chosen = chosen_step(connection, run_id, step)
    where = "FROM kernels WHERE run_id = ? AND step = ?"
    ((kernels,),) = connection.execute(f"SELECT count(*) {where}", [run_id, chosen]).fetchall()
    captured = CapturedStep(connection, run_id, chosen, on_device=kernels > 0)
    ends = captured.ends()
    if not ends:
        raise UserError(f"run {run_id!r} has no captured steps: there is no critical path of it")

    @cache
    def line_of(rank: int) -> RankLine:
        return captured.line(rank, *ends[rank])

    last = max(ends, key=lambda rank: ends[rank][1])
    calls = {key: arrival for key, arrival in captured.arrivals().items() if arrival.rank in ends}
    pieces = walk(line_of, calls, last)
    begin_ns, end_ns = ends[last]
    seen = "kernels" if captured.on_device else "spans"
    return CriticalPath(run_id, chosen, seen, end_ns - begin_ns, tuple(pieces), len(ends))
