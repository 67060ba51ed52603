"""``vtrain-sim size``: scaling laws by their papers, and the largest model that really trains in time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vtrain as vt
from simulator.api.workplace import furnish
from simulator.synthetic import BASE, write_profile
from simulator.test_plan import projector
from vtrain_sim.catalog import Catalog
from vtrain_sim.commands.sim import app
from vtrain_sim.decide.sizing import USUAL, candidates, size
from vtrain_sim.decide.sizing.candidates import parameters
from vtrain_sim.errors import UserError
from vtrain_sim.model import build_step
from vtrain_sim.specs import Configuration, ParallelSpec, TrainSpec


def test_candidates_have_published_proportions_and_the_size_that_they_say() -> None:
    found = candidates(USUAL, 10e9, 200e9)
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


SCRIPT = """torchrun --nproc_per_node 16 pretrain_gpt.py --num-layers 24 --hidden-size 2048 --num-attention-heads 16 --bf16 \\
  --seq-length 1024 --vocab-size 32000 --recompute-granularity full --tensor-model-parallel-size 2 --micro-batch-size 1 \\
  --global-batch-size 256 --swiglu
"""


def script(tmp_path: Path, *more: str) -> list[str]:
    path = tmp_path / "train.sh"
    path.write_text(" ".join([SCRIPT.rstrip(), *more]) + "\n")
    return ["size", "--cluster", "dgx-a100-80gb", "--days", "3", "--megatron-args", str(path)]


def test_the_training_step_of_a_job_is_kept(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*script(tmp_path), "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    answer = json.loads(done.stdout)
    assert answer["num_gpus"] == 16
    plans = [c["plan"] for c in answer["candidates"] if c["plan"]]
    assert {(p["recompute"], p["global_batch_size"]) for p in plans} == {("full", 256)}
    args = answer["chosen"]["plan"]["megatron_args"]
    assert [args[args.index(flag) + 1] for flag in ("--seq-length", "--vocab-size")] == ["1024", "32000"]
    assert "--swiglu" not in args
    assert "note: searched, not as the job has it: --tensor-model-parallel-size, --micro-batch-size" in done.stderr
    assert "not as the job has it: --num-layers, --hidden-size, --num-attention-heads, --swiglu" in done.stderr
    # More GPUs are another budget for the same job.
    more = CliRunner().invoke(app, [*script(tmp_path), "--num-gpus", "32", "--json"])
    assert json.loads(more.stdout)["chosen"]["parameters"] > answer["chosen"]["parameters"]


@pytest.mark.parametrize(
    ("flags", "options", "says"),
    [
        ((), ("--seq-length", "2048"), "--seq-length 2048 contradicts the job, which says 1024"),
        ((), ("--vocab-size", "51200"), "which says 32000"),
        ((), ("--global-batch-size", "256,512"), "which says 256"),
        ((), ("--precision", "fp16"), "which says bf16"),
        (("--transformer-impl", "local"), ("--attention-backend", "flash"), "which says unfused"),
        (("--num-experts", "8"), (), "--num-experts 8: the candidates are dense"),
        (("--multi-latent-attention",), (), "--multi-latent-attention: the candidates are dense"),
        (("--mtp-num-layers", "1"), (), "--mtp-num-layers 1"),
    ],
)
def test_what_contradicts_the_job_is_refused(
    tmp_path: Path, flags: tuple[str, ...], options: tuple[str, ...], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        CliRunner().invoke(app, [*script(tmp_path, *flags), *options], catch_exceptions=False)


def test_what_agrees_with_the_job_is_no_contradiction(tmp_path: Path) -> None:
    options = [
        "--seq-length",
        "1024",
        "--precision",
        "bf16",
        "--global-batch-size",
        "256",
        "--attention-backend",
        "flash",
    ]
    assert CliRunner().invoke(app, [*script(tmp_path), *options]).exit_code == 0


def test_specs_and_captured_runs_are_jobs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    spec = CliRunner().invoke(app, ["size", "--spec", "job.yaml", "--days", "5", "--json"])
    assert spec.exit_code == 0, (spec.output, spec.exception)
    answer = json.loads(spec.stdout)
    assert (answer["cluster"], answer["num_gpus"]) == ("dgx-a100-80gb", 8)
    assert answer["chosen"]["plan"]["global_batch_size"] == 16
    # On the run's own machine, a slow one: its sequence, batch and precision.
    run = ["size", "--catalog", "vtrain.duckdb", "--run", "base", "--num-gpus", "2", "--days", "4000"]
    done = CliRunner().invoke(app, [*run, "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    plan = json.loads(done.stdout)["chosen"]["plan"]
    assert plan["global_batch_size"] == 4
    assert plan["megatron_args"][plan["megatron_args"].index("--seq-length") + 1] == "128"


def test_a_machine_whose_network_is_not_known_is_said(tmp_path: Path) -> None:
    """Not that no model trains in time."""
    write_profile(tmp_path / "profiles", configuration=BASE)
    Catalog(tmp_path / "c.duckdb").add([str(tmp_path / "profiles")])
    machine = vt.job.from_run(tmp_path / "c.duckdb", "base").machine
    with pytest.raises(UserError, match="nothing says how long"):
        vt.size(cluster=machine, num_gpus=4, days=6000, global_batch_size=4)
