"""What captured steps say as a whole: time outside operators and communication, and how much steps differ."""

from __future__ import annotations

import duckdb

from vtrain_sim.costs.capture_cost import capture_cost


def step_overhead_s(connection: duckdb.DuckDBPyConnection, run_ids: list[str]) -> float:
    """Seconds per step that are neither an operator, communication nor the capture; 0 without module operators."""
    ((value,),) = connection.execute(
        """
        WITH o AS (SELECT run_id, rank, step, sum(duration_ns) AS ns FROM operators
                   WHERE source = 'module' GROUP BY ALL),
        c AS (SELECT run_id, rank, step, sum(exposed_ns) AS ns FROM collectives
              WHERE source = 'hook' GROUP BY ALL)
        SELECT median(s.duration_ns - o.ns - coalesce(c.ns, 0)) / 1e9
        FROM steps s JOIN o USING (run_id, rank, step) LEFT JOIN c USING (run_id, rank, step)
        WHERE list_contains(?, s.run_id)
        """,
        [run_ids],
    ).fetchall()
    costs = [capture_cost(connection, run_id).beside_operators_s for run_id in run_ids]
    return max(0.0, float(value or 0.0) - min(costs))


def step_spread(connection: duckdb.DuckDBPyConnection, run_ids: list[str]) -> float:
    """Standard deviation of the logarithm of the steps' durations, the slowest rank's of each; 0 without steps."""
    ((value,),) = connection.execute(
        """
        SELECT stddev_pop(ln(ns))
        FROM (SELECT max(duration_ns) AS ns FROM steps WHERE list_contains(?, run_id) GROUP BY run_id, step)
        """,
        [run_ids],
    ).fetchall()
    return float(value or 0.0)
