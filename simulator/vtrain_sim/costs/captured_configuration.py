"""The configuration of a captured run, as its operators were recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import duckdb

from vtrain_schemas.words import TRACES
from vtrain_sim.catalog import Catalog
from vtrain_sim.catalog.rows import dictionaries
from vtrain_sim.errors import UserError, nearest
from vtrain_sim.inputs.captured_run import configuration_from_run
from vtrain_sim.model import build_step
from vtrain_sim.specs import Configuration


def read_configuration(catalog: Catalog, run_id: str) -> Configuration:
    """Configuration of a captured run of a catalog.

    Raises `UserError` for a run that is not there, or that does not say it: an imported trace, a microbenchmark.
    """
    with catalog.reading() as connection:
        runs = {run["run_id"]: run for run in dictionaries(connection.execute("SELECT * FROM runs"))}
        if run_id not in runs:
            raise UserError(f"there is no run {run_id!r} in {catalog.path}{nearest(run_id, runs)}")
        configuration = captured_configuration(connection, runs[run_id])
    if configuration is None:
        raise UserError(f"run {run_id!r} is a trace, which does not say its model: give a launch script or a spec")
    return configuration


def captured_configuration(connection: duckdb.DuckDBPyConnection, run: Mapping[str, Any]) -> Configuration | None:
    """Configuration of a row of the runs table; None for an imported trace, which does not say it.

    Raises `UserError` where the run is not simulated, or its ranks hold other parameters than it says.
    """
    if run["source"] in TRACES:
        return None
    configuration = configuration_from_run(run)
    captured = connection.execute(
        "SELECT DISTINCT pp_rank, parameters FROM ranks WHERE run_id = ? AND parameters > 0 ORDER BY ALL",
        [run["run_id"]],
    ).fetchall()
    check_parameters(str(run["run_id"]), configuration, captured)
    # Autograd accumulates a weight's gradient before the input's gradient is there, which ends the span of the
    # linear layer: what was recorded as the product holds the accumulation, fused or not.
    return replace(configuration, train=replace(configuration.train, gradient_accumulation_fusion=True))


def check_parameters(run_id: str, configuration: Configuration, captured: Iterable[tuple[int, int]]) -> None:
    """Raise `UserError` where a rank of a captured run has other parameters than the configuration says.

    captured: (pipeline stage, parameters that the rank holds), for any of the ranks. Fully sharded parameters
    are not compared: a rank's count depends on how they are padded.
    """
    if configuration.parallel.fsdp:
        return
    stages = build_step(configuration).stages
    for stage, parameters in captured:
        expected = stages[stage].parameters + stages[stage].expert_parameters
        if parameters != expected:
            raise UserError(
                f"run {run_id!r} has {parameters:,} parameters on a rank of pipeline stage {stage}, the model that its "
                f"configuration describes has {expected:,}: it trained something that is not simulated"
            )
