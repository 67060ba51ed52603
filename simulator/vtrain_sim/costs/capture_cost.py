"""What a capture itself costs, from the steps just before it: every span that is recorded takes the host some time."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

# A capture does not cost more than this share of an operator: beyond, the operator itself is not known.
MOST_OF_OPERATOR = 0.8
# Fewer plain steps do not say how much they differ.
FEWEST_STEPS = 2


@dataclass(frozen=True)
class CaptureCost:
    """seconds: of one recorded span; error: their standard error. spans: per step and rank; operators: those of them
    that are operators."""

    seconds: float = 0.0
    error: float = 0.0
    spans: float = 0.0
    operators: float = 0.0

    @property
    def step_s(self) -> float:
        """Seconds of a step."""
        return self.seconds * self.spans

    @property
    def beside_operators_s(self) -> float:
        """Seconds of a step that the spans cost which are no operators."""
        return self.seconds * (self.spans - self.operators)


def capture_cost(connection: duckdb.DuckDBPyConnection, run_id: str) -> CaptureCost:
    """The cost of a run's capture; nothing where it has too few plain steps, or they took as long.

    Intervals are those of the lowest rank that has a row of the runs table.
    """
    row = connection.execute(
        "SELECT plain_interval_ns FROM runs WHERE run_id = ? AND source = 'plugin'", [run_id]
    ).fetchone()
    plain = row[0] if row is not None else None
    if not plain or len(plain) < FEWEST_STEPS:
        return CaptureCost()
    row = connection.execute(
        """
        WITH per_step AS (SELECT rank, step, count(*) AS spans FROM spans WHERE run_id = $run GROUP BY ALL),
        called AS (SELECT rank, step, count(*) AS n FROM operators
                   WHERE run_id = $run AND source = 'module' GROUP BY ALL)
        SELECT (SELECT list(interval_ns ORDER BY step) FROM steps
                WHERE run_id = $run AND interval_ns IS NOT NULL
                  AND rank = (SELECT min(rank) FROM steps WHERE run_id = $run)),
               (SELECT avg(spans) FROM per_step), (SELECT avg(n) FROM called)
        """,
        {"run": run_id},
    ).fetchone()
    captured, spans, operators = row or (None, None, None)
    if not captured or not spans:
        return CaptureCost()
    difference = statistics.median(captured) - statistics.median(plain)
    spread = statistics.stdev(plain)
    error = math.hypot(_error_of_median(plain, spread), _error_of_median(captured, spread))
    return CaptureCost(max(0.0, difference) / spans / 1e9, error / spans / 1e9, float(spans), float(operators or 0.0))


def _error_of_median(values: list[int], spread: float) -> float:
    """Standard error of a median of normally distributed values. spread: their deviation where there is one value."""
    deviation = statistics.stdev(values) if len(values) >= FEWEST_STEPS else spread
    return 1.253 * deviation / math.sqrt(len(values))
