"""``vtrain-sim size``: scaling laws by their papers, and the largest model that really trains in time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from simulator.test_plan import projector
from vtrain_sim.commands.sim import app
from vtrain_sim.decide.sizing import LAWS, candidates, size, tokens_for
from vtrain_sim.decide.sizing.candidates import parameters
from vtrain_sim.decide.sizing.laws import largest_parameters
from vtrain_sim.errors import UserError
from vtrain_sim.model import build_step
from vtrain_sim.specs import Configuration, ParallelSpec, TrainSpec


def test_laws_are_those_of_their_papers() -> None:
    assert tokens_for(70e9, "chinchilla-20") == 1.4e12
    # At Chinchilla's budget approach 3 gives 40 billion parameters in the paper; the exponents that it prints,
    # rounded to two digits, 32. Besiroglu et al. find about 20 tokens per parameter there.
    assert 30e9 < largest_parameters(5.76e23, "hoffmann-approach-3") < 45e9
    assert 15 < tokens_for(70e9, "besiroglu") / 70e9 < 30
    with pytest.raises(UserError, match="did you mean 'besiroglu'"):
        tokens_for(1e9, "besirogl")


@given(st.floats(1e20, 1e26), st.sampled_from(list(LAWS)))
def test_budget_and_size_agree(flops: float, law: str) -> None:
    count = largest_parameters(flops, law)
    assert 6 * count * tokens_for(count, law) == pytest.approx(flops, rel=1e-9)


def test_candidates_have_published_proportions_and_the_size_that_they_say() -> None:
    found = candidates(2048, 51200, 10e9, 200e9)
    assert [parameters(m) for m in found] == sorted(parameters(m) for m in found)
    sizes = {(m.num_layers, m.hidden_size) for m in found}
    assert {(80, 12288), (60, 10240), (48, 6144)} <= sizes
    for model in found[::9]:
        held = build_step(Configuration(model, ParallelSpec(), TrainSpec(1, 1))).stages[0].parameters
        assert held == pytest.approx(parameters(model), rel=0.002)


def test_the_chosen_model_is_the_largest_that_trains_in_time() -> None:
    result = size(projector(), 64, 20.0, (512,))
    assert result.chosen.days <= 20.0
    larger = [c for c in result.candidates if c.parameters > result.chosen.parameters]
    assert larger
    assert all(c.days > 20.0 for c in larger)
    assert result.naive_parameters > result.chosen.parameters
    for c in result.candidates:
        if c.plan is not None:
            # Days are those of the plan at its MFU.
            flops = 6 * c.parameters * c.tokens
            peak = 312e12 * c.plan.projection.configuration.parallel.world_size
            assert c.plan.days == pytest.approx(flops / (peak * c.plan.projection.mfu) / 86400, rel=0.12)


def test_budgets_without_a_model_say_so() -> None:
    with pytest.raises(UserError, match="no published model"):
        size(projector(), 1, 0.001, (512,))


def test_command_prints_the_documented_json(tmp_path: Path) -> None:
    command = [
        "size",
        "--cluster",
        "dgx-h100",
        "--num-gpus",
        "64",
        "--days",
        "10",
        "--global-batch-size",
        "512",
        "--table",
        str(tmp_path / "c.parquet"),
        "--plot",
        str(tmp_path / "c.svg"),
    ]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.exception
    answer = json.loads(done.stdout)
    assert answer["schema"] == "vtrain.size/1"
    for key in ("parameters", "tokens", "plan", "days", "mfu"):
        assert answer["chosen"][key]
        assert key in answer["candidates"][0]
    assert (tmp_path / "c.parquet").exists()
    assert "<svg" in (tmp_path / "c.svg").read_text()
