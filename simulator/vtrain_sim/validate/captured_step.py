"""Reads a captured step from the catalog: its time, and that of its parts and operators."""

from __future__ import annotations

from collections import defaultdict
from typing import TypeAlias

import duckdb

from vtrain_schemas.operators import Operator
from vtrain_schemas.operators.columns import READ_CAUSAL, READ_FUSED
from vtrain_schemas.words import TRACES
from vtrain_sim.costs.measured import Group, canonical
from vtrain_sim.errors import UserError
from vtrain_sim.simulate.projection import WAITING

OTHER = "other"
COMMUNICATES = " communication"
FORWARD, BACKWARD, ONCE = "forward", "backward", "once per step"

# Seconds per step by part and direction ("" where a part has none).
Parts: TypeAlias = dict[tuple[str, str], float]
# Calls per step and rank, by the identity of the operator.
Identity: TypeAlias = tuple[Group, tuple[int, ...]]
Calls: TypeAlias = dict[Identity, float]


def source_of(connection: duckdb.DuckDBPyConnection, run_id: str) -> str:
    """What wrote a run. Raises `UserError` where there is none of this id."""
    rows = connection.execute("SELECT source FROM runs WHERE run_id = ?", [run_id]).fetchall()
    if not rows:
        raise UserError(f"there is no run {run_id!r} in the catalog")
    return str(rows[0][0])


def step_time(source: str) -> str:
    """The time of a step in nanoseconds, in SQL. source: what wrote the run."""
    # A profiler marks steps on the host, which runs ahead of the device: from end to end they are as long.
    return "coalesce(interval_ns, duration_ns)" if source in TRACES else "duration_ns"


def recorded_by(source: str, hooks: str = "module") -> str:
    """What recorded a run's operators ("module") or collectives ("hook") where a plugin wrote it; else the profiler."""
    return source if source in TRACES else hooks


def cause_of_role(role: str) -> str:
    """What communication of a role is called among the parts of a step."""
    return WAITING if role == "pp" else f"{role}{COMMUNICATES}"


def captured_step(connection: duckdb.DuckDBPyConnection, run_id: str, source: str) -> tuple[float, int, int]:
    """Seconds of a step (median over the steps, of the slowest rank), steps and ranks. Raises `UserError`."""
    seconds, steps, ranks = connection.execute(
        f"""
        SELECT median(ns) / 1e9, count(*), max(ranks)
        FROM (
            SELECT max({step_time(source)}) AS ns, count(DISTINCT rank) AS ranks
            FROM steps WHERE run_id = ? GROUP BY step
        )
        """,
        [run_id],
    ).fetchall()[0]
    if not seconds:
        raise UserError(f"run {run_id!r} has no steps: there is nothing to compare with")
    return float(seconds), int(steps), int(ranks)


_PLACES = """
    CASE WHEN layer_number IS NOT NULL THEN 'layer ' || layer_number
         WHEN kind = 'embedding' THEN 'embedding'
         WHEN kind IN ('output_layer', 'loss', 'norm', 'linear') THEN 'head'
         WHEN kind IN ('optimizer', 'zero_grad', 'grad_sync', 'param_sync') THEN 'optimizer'
         ELSE 'other' END
"""
_DIRECTIONS = """
    CASE WHEN phase = 'update' THEN 'once per step' WHEN phase = 'forward' THEN 'forward' ELSE 'backward' END
"""
_OF_SPANS = f"""
    SELECT rank, step, {_PLACES} AS part, {_DIRECTIONS} AS direction, self_ns
    FROM spans WHERE run_id = $run
"""
# Operators carry the device's time; a backward one belongs where its forward operator does.
_OF_OPERATORS = f"""
    WITH placed AS (
        SELECT rank, span_id, any_value(kind) AS kind, {_PLACES} AS part FROM spans WHERE run_id = $run
        GROUP BY rank, span_id, layer_number, kind
    ),
    called AS (
        SELECT o.rank, o.step, o.phase, o.self_ns, o.sequence_number, coalesce(p.part, 'other') AS part
        FROM operators o LEFT JOIN placed p USING (rank, span_id)
        WHERE o.run_id = $run AND o.kind <> 'communication'
    ),
    forward AS (
        -- Without gradients autograd does not count on: a number that several layers share says nothing.
        SELECT rank, sequence_number, min(part) AS part FROM called
        WHERE phase IN ('forward', 'recompute') AND sequence_number IS NOT NULL AND part <> 'other'
        GROUP BY ALL HAVING min(part) = max(part)
    )
    SELECT c.rank, c.step, CASE WHEN c.part = 'other' THEN coalesce(f.part, c.part) ELSE c.part END AS part,
           {_DIRECTIONS} AS direction, c.self_ns
    FROM called c LEFT JOIN forward f
        ON f.rank = c.rank AND f.sequence_number = c.sequence_number AND c.phase <> 'forward'
"""
_COMMUNICATION = """
    SELECT role, avg(ns) / 1e9 FROM (
        SELECT role, rank,
               sum(exposed_ns) / (SELECT count(DISTINCT step) FROM steps WHERE run_id = $run AND step >= 0) AS ns
        FROM collectives
        WHERE run_id = $run AND source = $source AND step >= 0
        GROUP BY role, rank
    ) GROUP BY role
"""


def captured_parts(connection: duckdb.DuckDBPyConnection, run_id: str, source: str) -> Parts:
    """Seconds per step by part and direction, on the mean of the ranks that have it."""
    inner = _OF_OPERATORS if source in TRACES else _OF_SPANS
    rows = connection.execute(
        f"""
        SELECT part, direction, avg(ns) / 1e9 FROM (
            SELECT part, direction, rank, sum(self_ns) / count(DISTINCT step) AS ns
            FROM ({inner}) WHERE step >= 0 GROUP BY ALL
        ) GROUP BY part, direction
        """,
        {"run": run_id},
    ).fetchall()
    parts = {(str(part), str(direction)): float(seconds) for part, direction, seconds in rows}
    for (part, direction), seconds in list(parts.items()):
        # Work outside the layers that is neither: the host's own, counted once.
        if part == OTHER:
            del parts[part, direction]
            parts[OTHER, ""] = parts.get((OTHER, ""), 0.0) + seconds
        if part == "optimizer" and direction != ONCE:
            del parts[part, direction]
            parts[part, ONCE] = parts.get((part, ONCE), 0.0) + seconds
    values = {"run": run_id, "source": recorded_by(source, "hook")}
    for role, seconds in connection.execute(_COMMUNICATION, values).fetchall():
        if seconds:
            parts[cause_of_role(role), ""] = float(seconds)
    return parts


def captured_calls(connection: duckdb.DuckDBPyConnection, run_id: str, source: str, rank_steps: int) -> Calls:
    """Calls of each shape in a step of a rank, by identity."""
    rows = connection.execute(
        f"""
        SELECT kind, phase, coalesce(m, 0), coalesce(n, 0), coalesce(k, 0), coalesce(batch, 1), coalesce(seq_q, 0),
               coalesce(seq_kv, 0), coalesce(heads, 0), coalesce(kv_heads, 0), coalesce(head_dim, 0),
               coalesce(dtype, ''), {READ_FUSED}, {READ_CAUSAL}, count(*)
        FROM operators WHERE run_id = ? AND source = ? AND flops IS NOT NULL AND step >= 0
        GROUP BY ALL
        """,
        [run_id, recorded_by(source)],
    ).fetchall()
    calls: Calls = defaultdict(float)
    for *shape, count in rows:
        calls[canonical(Operator(*shape))] += count / rank_steps
    return calls
