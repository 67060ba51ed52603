"""Where the time of a captured step goes, by the causes of a projection."""

from __future__ import annotations

from collections import defaultdict

import duckdb

from vtrain_schemas.operators import kind as kind_of
from vtrain_schemas.words import TRACES
from vtrain_sim.catalog import Catalog
from vtrain_sim.catalog.rows import dictionaries
from vtrain_sim.costs.capture_cost import MOST_OF_OPERATOR, CaptureCost, capture_cost
from vtrain_sim.costs.captured_configuration import captured_configuration
from vtrain_sim.errors import UserError
from vtrain_sim.specs import Configuration
from vtrain_sim.validate.account import (
    OPTIMIZER,
    OVERHEAD,
    RECOMPUTE,
    Account,
    cause_of_kind,
    completed,
    settings_of,
)
from vtrain_sim.validate.captured_step import captured_step, cause_of_role, recorded_by, source_of, step_time

_OPERATORS = """
    SELECT kind, phase, sum(coalesce(self_ns, duration_ns)) / 1e9 / $steps AS seconds, count(*) / $steps AS calls
    FROM operators JOIN ranks USING (run_id, rank)
    WHERE run_id = $run AND source = $source AND step >= 0 AND kind <> 'communication'
        AND pp_rank IS NOT DISTINCT FROM $stage
    GROUP BY ALL
"""
_COMMUNICATION = """
    SELECT role, sum(exposed_ns) / 1e9 / $steps AS seconds
    FROM collectives JOIN ranks USING (run_id, rank)
    WHERE run_id = $run AND source = $source AND step >= 0 AND pp_rank IS NOT DISTINCT FROM $stage
    GROUP BY ALL HAVING seconds > 0
"""
_OF_STAGES = """
    SELECT pp_rank, sum(coalesce(self_ns, duration_ns)) / count(DISTINCT rank) AS work
    FROM operators JOIN ranks USING (run_id, rank)
    WHERE run_id = ? AND source = ? AND step >= 0 AND kind <> 'communication'
    GROUP BY pp_rank ORDER BY work DESC, pp_rank
"""


def captured_account(catalog: Catalog, run_id: str) -> Account:
    """Where the time of a captured step goes, on the mean of the steps and of the ranks of the stage with most work.

    Raises `UserError` for a run that is not there, or that has no steps or no operators.
    """
    with catalog.reading() as connection:
        source = source_of(connection, run_id)
        step_s, _, _ = captured_step(connection, run_id, source)
        stage = _stage(connection, run_id, source)
        cost = capture_cost(connection, run_id)
        causes = _causes(connection, run_id, source, stage, cost)
        of_stage = _of_stage(connection, run_id, source, stage) - cost.step_s
        if source not in TRACES:
            # A profiler's operators are what the device does: what is left is not all the host's.
            causes[OVERHEAD] += max(0.0, of_stage - sum(causes.values()))
        (row,) = dictionaries(connection.execute("SELECT * FROM runs WHERE run_id = ?", [run_id]))
        configuration = _configuration(connection, row)
        (peak,) = connection.execute(
            "SELECT max(peak_allocated_bytes) FROM steps WHERE run_id = ?", [run_id]
        ).fetchall()
    remarks = []
    if cost.step_s > 0:
        remarks.append(
            f"run {run_id}: the capture itself takes {cost.step_s / step_s:.1%} of a step, which is taken off"
        )
    if int(row["world_size"]) > 1:
        remarks.append(f"run {run_id}: captured communication includes waiting for slower ranks")
    return Account(
        step_s - cost.step_s,
        stage,
        True,
        completed(causes, step_s - cost.step_s),
        settings_of(configuration, None) if configuration is not None else {},
        int(row["world_size"]),
        configuration.tokens_per_step if configuration is not None else 0,
        int(peak[0] or 0),
        None,
        tuple(remarks),
    )


def _configuration(connection: duckdb.DuckDBPyConnection, row: dict[str, object]) -> Configuration | None:
    try:
        return captured_configuration(connection, row)
    except UserError:
        # What the simulation does not know can still be compared with another run.
        return None


def _stage(connection: duckdb.DuckDBPyConnection, run_id: str, source: str) -> int | None:
    """The one with most work; None where the ranks do not say theirs."""
    rows = connection.execute(_OF_STAGES, [run_id, recorded_by(source)]).fetchall()
    if not rows:
        raise UserError(f"run {run_id!r} has no operators: nothing says where its time goes")
    stage: int | None = rows[0][0]
    return stage


def _values(connection: duckdb.DuckDBPyConnection, run_id: str, stage: int | None) -> dict[str, object]:
    """Parameters of the queries; steps: those of all ranks of the stage together."""
    ((count,),) = connection.execute(
        "SELECT count(*) FROM steps JOIN ranks USING (run_id, rank) "
        "WHERE run_id = ? AND step >= 0 AND pp_rank IS NOT DISTINCT FROM ?",
        [run_id, stage],
    ).fetchall()
    return {"run": run_id, "stage": stage, "steps": max(1, int(count))}


def _causes(
    connection: duckdb.DuckDBPyConnection, run_id: str, source: str, stage: int | None, cost: CaptureCost
) -> dict[str, float]:
    """Seconds of a step by cause; what the capture costs is taken off each operator."""
    values = _values(connection, run_id, stage)
    causes: dict[str, float] = defaultdict(float)
    for row in dictionaries(connection.execute(_OPERATORS, {**values, "source": recorded_by(source)})):
        seconds = row["seconds"] - min(cost.seconds * row["calls"], MOST_OF_OPERATOR * row["seconds"])
        causes[_cause(str(row["kind"]), str(row["phase"]))] += seconds
    by_role = connection.execute(_COMMUNICATION, {**values, "source": recorded_by(source, "hook")}).fetchall()
    for role, seconds in by_role:
        causes[cause_of_role(role)] += float(seconds)
    return causes


def _cause(kind: str, phase: str) -> str:
    if phase == "recompute":
        return RECOMPUTE
    if phase == "update":
        return OPTIMIZER if kind_of(kind).follows_shape else OVERHEAD
    return cause_of_kind(kind)


def _of_stage(connection: duckdb.DuckDBPyConnection, run_id: str, source: str, stage: int | None) -> float:
    """Seconds of a step, mean over the ranks of a stage."""
    ((seconds,),) = connection.execute(
        f"SELECT avg({step_time(source)}) / 1e9 FROM steps JOIN ranks USING (run_id, rank) "
        "WHERE run_id = ? AND step >= 0 AND pp_rank IS NOT DISTINCT FROM ?",
        [run_id, stage],
    ).fetchall()
    return float(seconds or 0.0)
