"""``vtrain-sim size``: scaling laws by their papers, and the largest model that really trains in time."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vtrain as vt
from simulator.api.workplace import furnish
from simulator.synthetic import BASE, write_profile
from simulator.test_plan import projector
from vtrain_sim.catalog import Catalog
from vtrain_sim.commands.sim import app
from vtrain_sim.decide import Failures
from vtrain_sim.decide.sizing import GPT, Candidate, candidates, find_shape, size
from vtrain_sim.errors import UserError
from vtrain_sim.inputs.lookup import find_model
from vtrain_sim.model.step import active_parameters_of, parameters_of
from vtrain_sim.specs import ModelSpec


def narayanan(model: ModelSpec) -> float:
    """12 L h^2 (1 + 13 / 12 h + (V + s) / 12 L h) (Narayanan et al., SC'21, eq. 2)."""
    h, layers = model.hidden_size, model.num_layers
    return 12.0 * layers * h * h * (1 + 13 / (12 * h) + (model.vocab_size + model.seq_length) / (12 * layers * h))


def test_candidates_have_published_proportions_and_grow() -> None:
    found = candidates(GPT, GPT.usual)
    counts = [parameters_of(m) for m in found]
    assert counts == sorted(counts)
    sizes = {(m.num_layers, m.hidden_size) for m in found}
    assert {(80, 12288), (60, 10240), (48, 6144)} <= sizes
    for model in found[::9]:
        assert parameters_of(model) == pytest.approx(narayanan(model), rel=2e-4)


@pytest.mark.parametrize("name", ["gpt", "llama", "mixtral", "qwen3-moe", "deepseek-v3"])
def test_the_next_size_is_close(name: str) -> None:
    shape = find_shape(name)
    found = candidates(shape, shape.usual)
    sizes = [active_parameters_of(model) for model in found]
    assert sizes == sorted(sizes)
    assert len(set(found)) == len(found)
    assert all(larger <= 1.12 * smaller for smaller, larger in pairwise(sizes) if smaller > 1e9)
    assert all(larger <= 1.1 * smaller for smaller, larger in pairwise(sizes) if smaller > 2e9)
    low, high = shape.aspect
    aspects = [model.hidden_size / model.num_layers for model in found]
    assert low / 1.4 <= min(aspects)
    assert max(aspects) <= 1.4 * high
    assert sum(not low <= aspect <= high for aspect in aspects) < len(found) / 10
    assert all(model.num_layers % 2 == 0 for model in found)


def test_the_chosen_model_is_the_largest_that_trains_in_time() -> None:
    result = size(projector(), (64,), 20.0, (512,))
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


def test_a_low_mfu_makes_a_smaller_model_and_no_failure() -> None:
    """A small batch on many GPUs: no candidate reaches an MFU of 20%."""
    result = vt.size(cluster="dgx-h100", num_gpus=512, days=10, global_batch_size=16)
    plan = result.chosen.plan
    assert plan is not None
    assert plan.projection.mfu < 0.15
    assert result.chosen.days <= 10
    assert all(c.days > 10 for c in result.candidates if c.active_parameters > result.chosen.active_parameters)
    (note,) = result.notes
    assert "a larger --global-batch-size than 16" in note


def test_of_several_numbers_of_gpus_the_one_with_the_largest_model() -> None:
    few, many, both = (
        vt.size(cluster="dgx-a100-80gb", num_gpus=n, days=3, global_batch_size=64) for n in (8, 16, "8,16")
    )
    assert both.gpu_counts == (8, 16)
    assert both.chosen == many.chosen
    assert few.chosen.parameters < many.chosen.parameters
    assert {c.num_gpus for c in both.candidates} == {8, 16}


def test_the_frontier_is_what_nothing_beats() -> None:
    result = vt.size(cluster="dgx-a100-80gb", num_gpus="8,16,32", days=3, global_batch_size=64)

    def beats(one: Candidate, other: Candidate) -> bool:
        ours = (-one.active_parameters, one.days, one.cost_usd)
        theirs = (-other.active_parameters, other.days, other.cost_usd)
        return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))

    unbeaten = [c for c in result.candidates if not any(beats(other, c) for other in result.candidates)]
    assert list(result.frontier) == sorted(unbeaten, key=lambda c: (c.active_parameters, c.days))
    assert result.chosen in result.frontier
    assert {c.num_gpus for c in result.frontier} == {8, 16, 32}
    assert min(c.parameters for c in result.frontier) < result.chosen.parameters / 2
    assert [row["on_frontier"] for row in result.rows()].count(True) == len(result.frontier)
    assert len(result.to_dict()["frontier"]) == len(result.frontier)


def test_the_shapes_are_those_of_their_models() -> None:
    for name, layers, hidden, preset in (
        ("llama", 80, 8192, "llama3-70b"),
        ("llama", 32, 4096, "llama3-8b"),
        ("mixtral", 32, 4096, "mixtral-8x7b"),
        ("qwen3-moe", 48, 2048, "qwen3-30b-a3b"),
        ("qwen3-moe", 94, 4096, "qwen3-235b-a22b"),
        ("deepseek-v3", 61, 7168, "deepseek-v3"),
    ):
        shape = find_shape(name)
        published = find_model(preset)
        assert shape.model(layers, hidden, published) == published, name
    deep = find_shape("deepseek-v3")
    assert deep.model(64, 8192, deep.usual).moe_layer_freq == "([0]*3+[1]*61)"


def test_experts_count_as_far_as_a_token_uses_them() -> None:
    """Mixtral's paper: 47 billion parameters, 13 of them used by a token."""
    model = find_model("mixtral-8x7b")
    assert parameters_of(model) == pytest.approx(46.7e9, rel=2e-3)
    assert active_parameters_of(model) == pytest.approx(12.9e9, rel=2e-3)
    result = vt.size(cluster="dgx-h100", num_gpus=8, days=3, global_batch_size=64, shape="mixtral", seq_length=1024)
    chosen = result.chosen
    assert chosen.plan is not None
    assert chosen.tokens == 20 * chosen.active_parameters < 20 * chosen.parameters
    assert chosen.plan.projection.configuration.model.num_experts == 8
    assert chosen.days <= 3


def test_a_shape_brings_its_sequence_and_vocabulary() -> None:
    result = vt.size(cluster="dgx-h100", num_gpus=8, days=3, global_batch_size=64, shape="llama", precision="fp8")
    assert result.chosen.plan is not None
    c = result.chosen.plan.projection.configuration
    assert (c.model.seq_length, c.model.vocab_size, c.model.swiglu) == (8192, 128256, True)
    assert c.train.precision.name == "fp8-hybrid"


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ("lama", "--shape is 'lama' .did you mean 'llama'..: there are gpt, llama, mixtral, qwen3-moe"),
        ("nemotron-h-8b", "in an order of its own"),
        ("llama4-maverick", "is not dense layers and then experts"),
    ],
)
def test_a_shape_that_does_not_scale_is_refused(shape: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        find_shape(shape)


def test_failures_make_the_model_smaller() -> None:
    usual = vt.size(cluster="dgx-h100", num_gpus=64, days=3, global_batch_size=256)
    failing = vt.size(cluster="dgx-h100", num_gpus=64, days=3, global_batch_size=256, gpu_mtbf_hours=40)
    assert failing.chosen.parameters < usual.chosen.parameters
    same = {c.model: c for c in usual.candidates}
    stretch = Failures(40).stretch(64)
    compared = [(c.days, same[c.model].days) for c in failing.candidates if c.model in same]
    assert compared
    assert all(with_them == pytest.approx(without * stretch) for with_them, without in compared)
    with pytest.raises(UserError, match="--checkpoint-interval needs --gpu-mtbf-hours"):
        vt.size(cluster="dgx-h100", num_gpus=64, days=3, checkpoint_interval=600)


def test_budgets_without_a_model_say_so() -> None:
    with pytest.raises(UserError, match="no published model"):
        size(projector(), (1,), 0.001, (512,))


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
        (("--num-experts", "8"), (), "or the --shape of models like it"),
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
