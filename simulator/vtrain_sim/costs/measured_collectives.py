"""Measured transfer times of collectives, and what lies between and beyond them."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

from vtrain_schemas.words import TRACES
from vtrain_sim.costs.algorithms import bus_factor
from vtrain_sim.costs.estimate import INTERPOLATED, MEASURED, MODELLED, Estimate

if TYPE_CHECKING:
    import duckdb

# Seen from one rank alone, a transfer includes an unknown wait.
ONE_SIDED_SPREAD = 0.2


@dataclass(frozen=True, order=True)
class Point:
    """One measured size: payload in bytes, seconds, and spread over the calls (standard deviation over the mean)."""

    nbytes: int
    seconds: float
    spread: float


@dataclass
class MeasuredCollectives:
    """Transfer times: (op, ranks) -> points by size."""

    points: dict[tuple[str, int], list[Point]] = field(default_factory=dict)

    def add(self, op: str, size: int, nbytes: int, seconds: float, spread: float) -> None:
        """Add one measured size; points are kept sorted."""
        points = self.points.setdefault((op, size), [])
        points.append(Point(nbytes, seconds, spread))
        points.sort()

    def estimate(self, op: str, size: int, nbytes: int) -> Estimate | None:
        """Estimate for an op that was measured with this number of ranks, or None."""
        points = self.points.get((op, size))
        if not points:
            return None
        at = bisect_left(points, nbytes, key=attrgetter("nbytes"))
        if at < len(points) and points[at].nbytes == nbytes:
            return Estimate(points[at].seconds, max(0.02, points[at].spread), MEASURED)
        if at == 0:
            return Estimate(points[0].seconds, 0.15, INTERPOLATED)
        if at == len(points):
            return _beyond(points, nbytes)
        return _between(points[at - 1], points[at], nbytes)

    def alpha_beta(self) -> tuple[float, float] | None:
        """Latency (s) and bus bandwidth (bytes/s) that the measurements of any op suggest."""
        if not self.points:
            return None
        rates = sorted(
            points[-1].nbytes * bus_factor(op, size) / points[-1].seconds
            for (op, size), points in self.points.items()
            if points[-1].seconds > 0
        )
        return min(points[0].seconds for points in self.points.values()), rates[len(rates) // 2]


def _between(low: Point, high: Point, nbytes: int) -> Estimate:
    share = math.log(nbytes / low.nbytes) / math.log(high.nbytes / low.nbytes)
    seconds = math.exp(math.log(low.seconds) + share * math.log(high.seconds / low.seconds))
    return Estimate(seconds, max(0.04, low.spread, high.spread), INTERPOLATED)


def _beyond(points: list[Point], nbytes: int) -> Estimate:
    """Above the largest size: the time grows with the bytes at the rate of the last two."""
    last = points[-1]
    rate = last.nbytes / last.seconds
    if len(points) > 1 and last.seconds > points[-2].seconds:
        rate = (last.nbytes - points[-2].nbytes) / (last.seconds - points[-2].seconds)
    distance = math.log(nbytes / last.nbytes)
    seconds = last.seconds + (nbytes - last.nbytes) / rate
    return Estimate(seconds, 0.05 + 0.1 * distance, INTERPOLATED if distance < 1 else MODELLED)


def load_collectives(connection: duckdb.DuckDBPyConnection, run_ids: list[str]) -> MeasuredCollectives:
    """Transfers of microbenchmarks and traces, inside one node: the shortest duration over the ranks of each
    call, then the middle over the repetitions. Of calls that only one rank recorded, the shortest tenth."""
    from vtrain_sim.catalog.rows import dictionaries

    result = connection.execute(
        """
        WITH calls AS (
            SELECT * FROM collective_transfers
            WHERE list_contains(?, run_id) AND bytes > 0 AND len(group_ranks) > 1 AND coalesce(nodes, 1) = 1
        ),
        transfers AS (
            SELECT DISTINCT run_id, step, op, group_ranks, sequence, bytes, transfer_ns, ranks_seen,
                   len(group_ranks) AS size
            FROM calls
            WHERE ranks_seen > 1 OR run_id IN (SELECT run_id FROM runs WHERE list_contains(?, source))
        )
        SELECT op, size, bytes, max(ranks_seen) > 1 AS several_ranks, median(transfer_ns) AS middle_ns,
               quantile_cont(transfer_ns, 0.84) AS high_ns, quantile_cont(transfer_ns, 0.1) AS low_ns,
               count(*) AS calls
        FROM transfers GROUP BY op, size, bytes ORDER BY ALL
        """,
        [run_ids, list(TRACES)],
    )
    measured = MeasuredCollectives()
    for row in dictionaries(result):
        middle_ns, low_ns = row["middle_ns"] or 0.0, row["low_ns"] or 0.0
        if row["several_ranks"] and middle_ns > 0:
            spread = max(0.0, row["high_ns"] / middle_ns - 1) / math.sqrt(max(1, row["calls"]))
            measured.add(row["op"], row["size"], row["bytes"], middle_ns / 1e9, spread)
        elif low_ns > 0:
            measured.add(row["op"], row["size"], row["bytes"], low_ns / 1e9, ONE_SIDED_SPREAD)
    return measured
