"""A captured run whose parameters are not those of its configuration is not projected from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from simulator.synthetic import BASE, rank_row, write_profile
from vtrain_plugin.capture.sink import Sink
from vtrain_sim.catalog import Catalog
from vtrain_sim.costs.captured_configuration import check_parameters
from vtrain_sim.costs.profile import load_profile
from vtrain_sim.errors import UserError
from vtrain_sim.model import build_step
from vtrain_sim.specs import ParallelSpec

PARAMETERS = build_step(BASE).stages[0].parameters


def catalog_with(directory: Path, parameters: int) -> Catalog:
    """A profile whose only rank holds so many parameters."""
    write_profile(directory)
    Sink(str(directory), "base", 0).write("ranks", [{**rank_row("base", 0), "parameters": parameters}])
    catalog = Catalog(directory / "c.duckdb")
    assert not catalog.add([str(directory)]).problems
    return catalog


def test_equal_counts_are_accepted(tmp_path: Path) -> None:
    assert load_profile(catalog_with(tmp_path, PARAMETERS), ["base"]).configuration == BASE


def test_other_counts_are_refused_with_both(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_profile(catalog_with(tmp_path, PARAMETERS + 4096), ["base"])
    message = str(caught.value)
    assert f"{PARAMETERS:,}" in message
    assert f"{PARAMETERS + 4096:,}" in message
    assert "\n" not in message


def test_every_stage_is_compared() -> None:
    pipelined = replace(BASE, parallel=ParallelSpec(pp=2))
    counts = [(s.stage, s.parameters + s.expert_parameters) for s in build_step(pipelined).stages]
    check_parameters("r", pipelined, counts)
    with pytest.raises(UserError, match="stage 1"):
        check_parameters("r", pipelined, [counts[0], (1, counts[1][1] - 1)])


def test_fully_sharded_parameters_are_not_compared() -> None:
    check_parameters("r", replace(BASE, parallel=ParallelSpec(dp=2, fsdp=True)), [(0, 1)])
