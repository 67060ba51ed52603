"""The runs of a catalog, and what is known of one."""

from __future__ import annotations

import duckdb

from vtrain_sim.catalog.problems import find_problems
from vtrain_sim.catalog.reports import Detail
from vtrain_sim.catalog.rows import dictionaries
from vtrain_sim.results import Row

_RUNS = """
    WITH f AS (
        SELECT run_id, max(ranks)::BIGINT AS ranks, sum(bytes)::BIGINT AS bytes, sum(damaged)::BIGINT AS damaged
        FROM (
            SELECT run_id, sum(bytes) AS bytes, sum(damaged) AS damaged,
                   sum(ranks) FILTER (table_name <> 'runs') AS ranks
            -- The parts of a rank's rows.
            FROM (
                SELECT run_id, table_name, any_value(ranks) AS ranks, sum(bytes) AS bytes,
                       count(*) FILTER (problem <> '') AS damaged
                FROM files GROUP BY run_id, table_name, rank, last_rank
            )
            GROUP BY run_id, table_name
        )
        GROUP BY run_id
    ),
    s AS (SELECT run_id, count(DISTINCT step) AS steps, median(duration_ns) / 1e9 AS step_s
          FROM steps GROUP BY run_id)
    SELECT f.run_id, r.source, r.device_name, r.world_size,
           r.tensor_model_parallel_size AS tp, r.pipeline_model_parallel_size AS pp,
           r.virtual_pipeline_chunks AS vpp, r.data_parallel_size AS dp,
           r.num_layers, r.hidden_size, r.global_batch_size AS gbs,
           f.ranks, s.steps, s.step_s, f.bytes, f.damaged
    FROM f LEFT JOIN runs r USING (run_id) LEFT JOIN s USING (run_id)
    ORDER BY r.created_ns, f.run_id
"""


def list_runs(connection: duckdb.DuckDBPyConnection) -> list[Row]:
    """One entry per run: id, source, layout, device, ranks and steps captured, problems."""
    return dictionaries(connection.execute(_RUNS))


def describe_run(connection: duckdb.DuckDBPyConnection, run_id: str) -> Detail:
    """Everything about one run: its row, ranks, steps, rows per table and problems."""
    row = dictionaries(connection.execute("SELECT * FROM runs WHERE run_id = ?", [run_id]))
    files = dictionaries(
        connection.execute(
            "SELECT table_name, count(*) AS files, sum(rows)::BIGINT AS rows, "
            "sum(bytes)::BIGINT AS bytes FROM files WHERE run_id = ? GROUP BY 1 ORDER BY 1",
            [run_id],
        )
    )
    ranks = dictionaries(connection.execute("SELECT * FROM ranks WHERE run_id = ? ORDER BY rank", [run_id]))
    steps = dictionaries(connection.execute("SELECT * FROM steps WHERE run_id = ? ORDER BY step, rank", [run_id]))
    notes = dictionaries(
        connection.execute(
            "FROM (SELECT outcome, subject, sum(count)::BIGINT AS count, reason, any_value(example) AS example "
            "FROM ingest WHERE run_id = ? GROUP BY ALL) "
            "ORDER BY outcome <> 'kept', outcome, subject, count DESC",
            [run_id],
        )
    )
    device = dictionaries(
        connection.execute("SELECT * FROM gpu_breakdown WHERE run_id = ? ORDER BY rank, device", [run_id])
    )
    problems = find_problems(connection, deep=False, run=run_id)
    return {
        "run": row[0] if row else None,
        "tables": files,
        "ranks": ranks,
        "steps": steps,
        "gpu": device,
        "notes": notes,
        "problems": problems,
    }
