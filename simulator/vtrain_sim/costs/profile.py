"""A captured profile as the simulator uses it: configuration, device, operator and network times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from vtrain_schemas.operators import Operator
from vtrain_schemas.words import TRACES
from vtrain_sim.catalog import Catalog
from vtrain_sim.catalog.rows import dictionaries
from vtrain_sim.costs.captured_configuration import captured_configuration
from vtrain_sim.costs.captured_machine import contention, machine_of
from vtrain_sim.costs.captured_steps import step_overhead_s, step_spread
from vtrain_sim.costs.measured import MeasuredOperators, Measurement, load_operators
from vtrain_sim.costs.measured_collectives import MeasuredCollectives, load_collectives
from vtrain_sim.errors import UserError, nearest
from vtrain_sim.specs import ClusterSpec, Configuration

# Sources of runs that are microbenchmarks of operators or collectives.
_BENCHES = ("ops", "rank", "collectives")
_OVERHEAD_SPREAD = 0.2


@dataclass(frozen=True)
class Profile:
    """What a run says.

    run: its row of the runs table. configuration: None for an imported trace, which does not say it. step_spread:
    standard deviation of the logarithm of the captured steps' durations.
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
    wanted = list(run_ids)
    with catalog.reading() as connection:
        runs = dictionaries(connection.execute("SELECT * FROM runs"))
        chosen = _chosen(runs, wanted, str(catalog.path))
        run = chosen[0]
        same_device = [r for r in runs if r["device_name"] == run["device_name"]]
        benches = [r["run_id"] for r in same_device if r["source"] in _BENCHES]
        collectives = load_collectives(connection, _network_runs(same_device, chosen))
        operators = _operators(connection, run, wanted, benches, collectives)
        configuration = captured_configuration(connection, run)
        slower = contention(connection, benches) if run["world_size"] == 1 else 1.0
        spread = step_spread(connection, wanted)
    gpus_per_node = max(int(r["devices_per_host"] or 1) for r in same_device)
    return Profile(
        run,
        configuration,
        operators,
        collectives,
        machine_of(run, operators, slower, gpus_per_node),
        spread,
    )


def _chosen(runs: Sequence[dict[str, Any]], wanted: Sequence[str], catalog: str) -> list[dict[str, Any]]:
    """The wanted rows of the runs table, all of one device."""
    by_id = {r["run_id"]: r for r in runs}
    for run_id in wanted:
        if run_id not in by_id:
            raise UserError(f"there is no run {run_id!r} in {catalog}{nearest(run_id, by_id)}")
    first, *others = chosen = [by_id[run_id] for run_id in wanted]
    for other in others:
        if other["device_name"] != first["device_name"]:
            raise UserError(
                f"run {other['run_id']!r} is from {other['device_name']}, run {first['run_id']!r} from "
                f"{first['device_name']}: operator times of different devices cannot be pooled"
            )
    return chosen


def _network_runs(same_device: Sequence[Mapping[str, Any]], chosen: Sequence[Mapping[str, Any]]) -> list[str]:
    """Runs that say how fast the network is: microbenchmarks, and of traces their own collectives."""
    networks = [r["run_id"] for r in same_device if r["source"] == "collectives"]
    return networks + [r["run_id"] for r in chosen if r["source"] in TRACES]


def _operators(
    connection: duckdb.DuckDBPyConnection,
    run: Mapping[str, Any],
    wanted: list[str],
    benches: list[str],
    collectives: MeasuredCollectives,
) -> MeasuredOperators:
    """Operator times of the wanted runs, then of the microbenchmarks."""
    captured = load_operators(connection, wanted)
    if not len(captured) and run["source"] not in TRACES:
        raise UserError(
            f"run {run['run_id']!r} has no operators: capture it with operators on, or add runs of "
            "vtrain-profile ops or rank"
        )
    if not len(captured) and not collectives.points:
        raise UserError(
            f"run {run['run_id']!r} has neither operators with shapes nor collectives with bytes and ranks: profile "
            "with record_shapes=True (Nsight Systems: emit_nvtx(record_shapes=True))"
        )
    overhead_s = step_overhead_s(connection, wanted)
    if overhead_s > 0:
        overhead = Operator("step_overhead", "update", dtype="float32")
        captured = captured.merged(MeasuredOperators([(overhead, Measurement(overhead_s, _OVERHEAD_SPREAD, 1))]))
    return captured.merged(load_operators(connection, benches))
