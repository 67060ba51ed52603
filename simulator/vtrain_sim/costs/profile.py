"""A captured profile as the simulator uses it: configuration, device, operator and network times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from vtrain_schemas.operators import Operator
from vtrain_schemas.words import TRACES
from vtrain_sim.catalog import Catalog
from vtrain_sim.costs.collectives import MeasuredCollectives, load_collectives
from vtrain_sim.costs.measured import MeasuredOperators, Measurement, load_operators
from vtrain_sim.errors import UserError, nearest
from vtrain_sim.inputs.captured_run import configuration_from_run
from vtrain_sim.specs import ClusterSpec, Configuration, DeviceSpec, NetworkSpec


@dataclass(frozen=True)
class Profile:
    """What a run says.

    configuration: None for a foreign trace, which does not say it. step_spread: standard deviation of the
    logarithm of the captured steps' durations.
    """

    run: dict[str, Any]
    configuration: Configuration | None
    operators: MeasuredOperators
    collectives: MeasuredCollectives
    cluster: ClusterSpec
    step_spread: float


def load_profile(catalog: Catalog, run_ids: Sequence[str]) -> Profile:
    """Read one or more runs, and the microbenchmarks of the same device in the same catalog.

    The first run gives the configuration to start from; the operators of all are pooled. Raises
    `UserError` for an unknown run, one on another device, or runs without operators.
    """
    run_id = run_ids[0]
    with catalog.reading() as connection:
        runs = _rows(connection, "SELECT * FROM runs")
        by_id = {r["run_id"]: r for r in runs}
        for wanted in run_ids:
            if wanted not in by_id:
                raise UserError(f"there is no run {wanted!r} in {catalog.path}{nearest(wanted, by_id)}")
        run = by_id[run_id]
        for other in run_ids[1:]:
            if by_id[other]["device_name"] != run["device_name"]:
                raise UserError(
                    f"run {other!r} is from {by_id[other]['device_name']}, run {run_id!r} from "
                    f"{run['device_name']}: operator times of different devices cannot be pooled"
                )
        same_device = [r for r in runs if r["device_name"] == run["device_name"]]
        benches = [r["run_id"] for r in same_device if r["source"] in ("ops", "rank", "collectives")]
        own = load_operators(connection, list(run_ids))
        # A trace's own collectives are what its network does.
        networks = [r["run_id"] for r in same_device if r["source"] == "collectives"]
        networks += [wanted for wanted in run_ids if by_id[wanted]["source"] in TRACES]
        collectives = load_collectives(connection, networks)
        if not len(own) and run["source"] not in TRACES:
            raise UserError(
                f"run {run_id!r} has no operators: capture it with operators on, or add runs of "
                "vtrain-profile ops or rank"
            )
        if not len(own) and not collectives.points:
            raise UserError(
                f"run {run_id!r} has neither operators with shapes nor collectives with bytes and ranks: profile with "
                "record_shapes=True (Nsight Systems: emit_nvtx(record_shapes=True))"
            )
        others = load_operators(connection, benches)
        overhead = _step_overhead(connection, list(run_ids))
        contention = _contention(connection, benches) if run["world_size"] == 1 else 1.0
        ((step_spread,),) = connection.execute(
            """
            SELECT stddev_pop(ln(ns))
            FROM (SELECT max(duration_ns) AS ns FROM steps WHERE list_contains(?, run_id) GROUP BY run_id, step)
            """,
            [list(run_ids)],
        ).fetchall()
    extra = MeasuredOperators(
        [(Operator("step_overhead", "update", dtype="float32"), Measurement(overhead, 0.2, 1))] if overhead > 0 else []
    )
    operators = own.merged(extra).merged(others)
    per_node = max(int(r["devices_per_host"] or 1) for r in same_device)
    cluster = _cluster(run, operators, contention, per_node)
    return Profile(
        run,
        None if run["source"] in TRACES else configuration_from_run(run),
        operators,
        collectives,
        cluster,
        float(step_spread or 0.0),
    )


def _rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    result = connection.execute(query)
    names = [d[0] for d in result.description or []]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _step_overhead(connection: duckdb.DuckDBPyConnection, run_ids: list[str]) -> float:
    """Seconds of a step that are neither an operator nor communication."""
    value = connection.execute(
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
    ).fetchall()[0][0]
    return max(0.0, float(value or 0.0))


def _contention(connection: duckdb.DuckDBPyConnection, run_ids: list[str]) -> float:
    """How much slower compute is when all devices of a node work at once and wait for the slowest.

    The microbenchmark times the same work on one rank while the others wait, and on all together.
    """
    rows = connection.execute(
        """
        WITH slowest AS (
            SELECT run_id, name, step, max(duration_ns) AS ns FROM operators
            WHERE list_contains(?, run_id) AND name IN ('reference_alone', 'reference_together')
            GROUP BY ALL
        )
        SELECT median(ns) FILTER (name = 'reference_together') / median(ns) FILTER (name = 'reference_alone')
        FROM slowest
        """,
        [run_ids],
    ).fetchall()
    return max(1.0, float(rows[0][0] or 1.0))


def _cluster(run: dict[str, Any], operators: MeasuredOperators, contention: float, per_node: int) -> ClusterSpec:
    """The machine of a run: nominal peaks are the best that was seen on it."""
    rate = max((o.flops() / m.seconds for o, m in operators if o.kind == "gemm"), default=1e12)
    streamed = [
        o.bytes() / m.seconds for o, m in operators if o.kind in ("norm", "activation", "optimizer", "grad_norm")
    ]
    device = DeviceSpec(
        name=str(run["device_name"]),
        peak_flops={str(run["params_dtype"] or "bfloat16"): rate},
        memory_bandwidth=max(streamed, default=rate / 100),
        memory_bytes=int(run["device_memory_bytes"] or 1 << 40),
    )
    nothing = NetworkSpec("unknown", 1.0, 0.0)
    backend = str(run["backend"] or "gloo")
    return ClusterSpec(
        name=f"the machine of run {run['run_id']}",
        device=device,
        gpus_per_node=per_node,
        intra_node=nothing,
        inter_node=nothing,
        # gloo moves and reduces data on the cores that compute: nothing really hides.
        overlap_efficiency=0.0 if backend == "gloo" else 1.0,
        contention=contention,
        backend=backend if backend in ("nccl", "gloo", "mpi", "ucc", "fake") else "gloo",
    )
