"""``vtrain-sim plan``: the search finds what trying everything finds, and says what would help where nothing is."""

from __future__ import annotations

import io
import itertools
import json
import math
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

import vtrain as vt
from vtrain_sim.commands.sim import app
from vtrain_sim.costs import CollectiveCosts, OperatorCosts
from vtrain_sim.costs.surfaces import DeviceSurface, Surfaces
from vtrain_sim.decide import Bounds, Failures, Request, configurations, plan
from vtrain_sim.decide.order import best_first, without_twins
from vtrain_sim.decide.search.bounds import gpu_counts
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.report.terminal.plan import print_plans
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import Configuration, TrainSpec


def projector(cluster: str = "dgx-a100-80gb") -> Projector:
    machine = presets.cluster(cluster)
    surfaces = Surfaces.from_dict(presets.cluster_surfaces(cluster))
    return Projector(machine, OperatorCosts(DeviceSurface(machine.device, surfaces)), CollectiveCosts(machine))


SMALL = Request(presets.model("gpt3-6.7b"), (128,), 1e11, num_gpus=(32, 64))
# Few candidates: to project them one by one.
FEW = replace(SMALL, bounds=Bounds(max_tp=2, max_pp=4, max_cp=1, micro_batches=(1, 4), choices=("sharding",)))


def test_search_finds_what_trying_everything_finds() -> None:
    model = projector()
    result = plan(FEW, model, top=5)
    tried = [c for n in (32, 64) for c in configurations(FEW.model, n, FEW.batches, FEW.bounds, FEW.base)]
    projections = [model.project(c) for c in tried]
    fitting = [p for p in projections if p.memory.fits]
    assert result.candidates >= len(tried) > result.evaluated >= result.feasible
    exhaustive = plan(replace(FEW, exhaustive=True), model, top=5)
    assert (exhaustive.evaluated, exhaustive.feasible) == (len(tried), len(fitting))
    best = sorted(p.days(FEW.tokens) for p in fitting)[:5]
    assert [p.days for p in result.plans] == pytest.approx(best)
    assert result.plans[0].cost_usd == pytest.approx(result.plans[0].projection.cost_usd(SMALL.tokens))


def test_plans_that_leave_too_little_are_left_out_unless_they_are_asked_for() -> None:
    """On GPUs with just what the smallest layout needs: it is there, and nothing to spare."""
    model = projector()
    tried = [c for n in (32, 64) for c in configurations(FEW.model, n, FEW.batches, FEW.bounds, FEW.base)]
    least = float(model.evaluate(tried).peak_bytes.min())
    device = replace(model.cluster.device, memory_bytes=round(least * 1.01))
    evaluator = model.evaluator
    full = Projector(replace(model.cluster, device=device), evaluator.operators, evaluator.collectives)
    with pytest.raises(UserError, match="do with less, and may run: --allow-tight ranks them"):
        plan(FEW, full)
    result = plan(replace(FEW, allow_tight=True), full, top=50)
    assert result.plans
    assert all(p.projection.memory.tight and not p.projection.memory.fits for p in result.plans)
    # With room for the margin, none of them is tight.
    assert all(p.projection.memory.fits for p in plan(FEW, model, top=50).plans)


@pytest.mark.parametrize(
    ("fixed", "holds"),
    [
        ({"schedule": "zb-v"}, lambda c: c.schedule == "zb-v"),
        ({"schedule": "dualpipe", "pp": 4}, lambda c: c.schedule == "dualpipe" and c.parallel.pp == 4),
        ({"use_torch_fsdp2": True}, lambda c: c.parallel.fsdp),
        (
            {"use_megatron_fsdp": True, "data_parallel_sharding_strategy": "optim_grads_params"},
            lambda c: c.parallel.fsdp and not c.parallel.distributed_optimizer,
        ),
        (
            {"use_megatron_fsdp": True, "data_parallel_sharding_strategy": "optim"},
            lambda c: c.parallel.distributed_optimizer and not c.parallel.fsdp,
        ),
    ],
)
def test_what_is_fixed_stays(fixed: dict[str, Any], holds: Callable[[Configuration], bool]) -> None:
    result = vt.plan("gpt3-13b", cluster="dgx-a100-80gb", num_gpus=32, global_batch_size=64, **fixed)
    assert all(holds(p.projection.configuration) for p in result.plans)
    text = io.StringIO()
    print_plans(result, Console(file=text, width=300))
    assert (" schedule " in text.getvalue()) == ("schedule" in fixed)
    # Without a number of tokens there is no training whose days and dollars these would be.
    assert "ranked by time" in text.getvalue()
    assert " days" not in text.getvalue()
    assert "$" not in text.getvalue()


def test_the_whole_space_is_there() -> None:
    """Every value of every dimension occurs, and no configuration twice."""
    moe = presets.model("mixtral-8x7b")
    space = list(configurations(moe, 64, (64,), Bounds(micro_batches=(1, 4)), TrainSpec(1, 1)))
    assert len(set(space)) == len(space)
    assert {c.parallel.world_size for c in space} == {64}
    for values, expected in (
        ({c.parallel.tp for c in space}, {1, 2, 4, 8}),
        ({c.parallel.pp for c in space}, {1, 2, 4, 8, 16, 32}),
        ({c.parallel.etp for c in space}, {1, 2, 4, 8}),
        ({c.parallel.fsdp for c in space}, {False, True}),
        ({c.parallel.tp_comm_overlap for c in space}, {False, True}),
        ({c.parallel.overlap_moe_comm for c in space}, {False, True}),
        ({c.parallel.ep for c in space}, {1, 2, 4, 8}),
        ({c.parallel.cp for c in space}, {1, 2}),
        ({c.train.recompute_granularity for c in space}, {"none", "selective", "full"}),
        ({c.parallel.distributed_optimizer for c in space}, {False, True}),
        ({c.schedule for c in space}, {"1f1b", "interleaved"}),
    ):
        assert values == expected
    predicting = replace(moe, mtp_num_layers=1)
    overlapped = {
        (c.parallel.pp > 1, c.parallel.vpp > 1)
        for c in configurations(predicting, 16, (64,), Bounds(micro_batches=(1,)), TrainSpec(1, 1))
        if c.parallel.overlap_moe_comm
    }
    assert overlapped == {(True, True)}
    zero_bubble = Bounds(schedules=("zb-h1", "zb-h2"), recompute=("none",))
    found = configurations(SMALL.model, 8, (64,), zero_bubble, TrainSpec(1, 1))
    assert {"zb-h1", "zb-h2"} <= {c.schedule for c in found}


def test_pipelines_of_a_prime_number_of_layers_are_uneven() -> None:
    bounds = Bounds(max_cp=1, max_tp=1, max_ep=1, micro_batches=(1,), choices=("none",), recompute=("none",))
    space = configurations(presets.model("deepseek-v3"), 256, (256,), bounds, TrainSpec(1, 1))
    stages = {c.stage_layers for c in space if c.parallel.pp == 16 and c.parallel.vpp == 1}
    # The ends of the model have the embedding and the output layer: they take fewer.
    assert (3, *[4] * 13, 3, 3) in stages or (3, 3, *[4] * 13, 3) in stages or (4, *[4] * 12, 3, 3, 3) in stages
    assert all(layers[-1] < 4 for layers in stages)


@pytest.mark.parametrize(
    ("most", "domain", "segment", "counts"),
    [
        (24, 8, 0, {1, 2, 4, 8, 16, 24}),
        (3, 8, 0, {1, 2}),
        (72, 72, 0, {1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 32, 36, 64, 72}),
        (200, 72, 64, {1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 32, 36, 64, 72, 128, 144, 192}),
    ],
)
def test_numbers_of_gpus_fill_domains_and_segments(most: int, domain: int, segment: int, counts: set[int]) -> None:
    assert gpu_counts((), most, domain, segment) == sorted(counts)


def test_a_search_fills_the_segments_of_large_domains() -> None:
    """Global batches that are powers of two leave a domain of 72 mostly idle, whose segments of 64 they fill."""
    bounds = Bounds(max_tp=1, max_pp=1, max_cp=1, micro_batches=(1,), recompute=("none",))
    request = Request(presets.model("llama3-8b"), (512,), 1e12, max_gpus=128, bounds=bounds)
    best = plan(request, projector("gb200-nvl72"), top=1).plans[0]
    assert best.projection.configuration.parallel.world_size == 128


def test_pipelines_are_uneven_where_the_layers_have_many_divisors_too() -> None:
    """126 layers divide over 14 or 18 stages, which 1,024 GPUs do not have: over 16, the ends take one fewer."""
    bounds = Bounds(max_cp=1, micro_batches=(1,), fixed=(("tp", 8),), choices=("none",))
    space = list(configurations(presets.model("llama3-405b"), 1024, (2048,), bounds, TrainSpec(1, 1)))
    assert {c.parallel.pp for c in space} == {1, 2, 4, 8, 16, 32, 64}
    assert (7, *[8] * 14, 7) in {c.stage_layers for c in space if c.parallel.pp == 16}
    # Numbers of GPUs that are no power of two leave a pipeline that is none either.
    twelve = configurations(presets.model("deepseek-v3"), 96, (1024,), bounds, TrainSpec(1, 1))
    assert {c.parallel.pp for c in twelve} == {3, 6, 12}


def test_uneven_plans_are_launched_as_they_are() -> None:
    request = Request(presets.model("llama3-405b"), (2048,), num_gpus=(1024,), bounds=Bounds(max_cp=1))
    best = plan(request, projector("dgx-h100"), top=1).plans[0]
    c = best.projection.configuration
    assert c.parallel.layers
    assert configuration_from_flags(best.to_dict()["megatron_args"], None, 1024) == c


def test_rankings_and_the_front() -> None:
    model = projector()
    wide = replace(SMALL, num_gpus=(), max_gpus=128)
    cheapest = plan(replace(wide, rank_by="dollars"), model).plans[0]
    fastest = plan(wide, model)
    assert cheapest.cost_usd <= fastest.plans[0].cost_usd
    assert fastest.plans[0].days <= cheapest.days
    front = fastest.pareto
    assert front[0].days == pytest.approx(fastest.plans[0].days)
    assert front[-1].cost_usd == pytest.approx(cheapest.cost_usd)
    for one, two in itertools.pairwise(front):
        assert one.days < two.days
        assert one.cost_usd > two.cost_usd
    # Bands of 10% around times that differ by less overlap.
    assert fastest.plans[1].tied_with_best


@pytest.mark.parametrize("rank_by", ["time", "days", "dollars", "mfu"])
def test_of_plans_that_are_equally_good_the_simplest_is_first(rank_by: str) -> None:
    """Context parallelism of 4 with four times the micro batch takes as long as none, but for rounding: it is not
    listed, nor is it the best plan of another kind."""
    bounds = Bounds(recompute=("none",), max_tp=1, max_pp=1)
    request = Request(presets.model("llama3-8b"), (512,), 1e12, num_gpus=(64,), bounds=bounds, rank_by=rank_by)
    result, exhaustive = (
        plan(replace(request, exhaustive=every), projector("dgx-b200"), top=2) for every in (False, True)
    )
    best, second = result.plans
    assert best.projection.configuration.parallel.cp == 1
    assert second.days > best.days * (1 + 1e-9)
    assert result.runner_up is not None
    assert exhaustive.runner_up is not None
    assert result.runner_up.days == pytest.approx(exhaustive.runner_up.days, rel=1e-12)
    assert result.runner_up.days > best.days * (1 + 1e-9)
    assert result.pareto[0].projection.configuration == result.plans[0].projection.configuration


def test_order_by_keys_then_by_context_tensor_and_pipeline_parallelism() -> None:
    space = configurations(presets.model("llama3-8b"), 8, (8,), Bounds(recompute=("none",)), TrainSpec(1, 1))
    some = list(space)
    equal = np.full(len(some), 3.0) * (1 + 1e-15 * np.arange(len(some))[::-1])
    sizes = [(c.parallel.cp, c.parallel.tp, c.parallel.pp) for c in some]
    assert len(set(sizes)) > 3
    assert [sizes[i] for i in best_first(some, equal)] == sorted(sizes)
    # Keys come first, however complex the layout is, and the second one counts among equals of the first.
    falling = np.arange(len(some), 0, -1.0)
    assert list(best_first(some, falling)) == list(reversed(range(len(some))))
    assert list(best_first(some, equal, falling)) == list(reversed(range(len(some))))
    # Whoever found them in whatever order: the parts of a search give what the whole gives.
    twins = [
        replace(c, parallel=replace(c.parallel, vpp=1, fsdp=fsdp, pp=1, layers=()))
        for c in some[:1]
        for fsdp in (True, False)
    ]
    assert [twins[i].parallel.fsdp for i in best_first(twins, np.ones(2))] == [False, True]
    assert [twins[::-1][i].parallel.fsdp for i in best_first(twins[::-1], np.ones(2))] == [False, True]


def test_emitted_arguments_are_the_plan() -> None:
    for found in plan(SMALL, projector()).plans:
        c = found.projection.configuration
        assert configuration_from_flags(found.to_dict()["megatron_args"], None, c.parallel.world_size) == c


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (replace(SMALL, num_gpus=(67,)), "no layout of gpt3-6.7b exists"),
        (replace(SMALL, model=presets.model("megatron-1t"), num_gpus=(8,)), "the smallest needs"),
        (replace(SMALL, deadline_days=0.01), "the fastest that fits takes"),
    ],
)
def test_an_empty_search_says_what_would_help(request_: Request, word: str) -> None:
    with pytest.raises(UserError, match=word) as caught:
        plan(request_, projector())
    assert "would" in str(caught.value)


@given(st.floats(10, 1e6), st.floats(1, 600), st.floats(0, 3600), st.integers(1, 10_000))
def test_the_suggested_interval_is_the_best(mtbf: float, checkpoint: float, restart: float, gpus: int) -> None:
    """Young and Daly: no other interval loses less, within what the approximation leaves."""
    best = Failures(mtbf, checkpoint, restart)
    if checkpoint > 0.2 * mtbf * 3600 / gpus:
        return  # beyond the approximation
    interval = best.best_interval_s(gpus)
    for factor in (0.3, 0.6, 1.5, 3.0):
        other = replace(best, interval_s=interval * factor)
        assert best.stretch(gpus) <= other.stretch(gpus) * 1.01


def test_failures_by_hand() -> None:
    """1,000 GPUs of 10,000 hours fail every 10 hours: sqrt(2 x 60 s x 36,000 s) is 35 minutes between
    checkpoints, which with a restart of 10 minutes costs about 2 x 60 / 2,078 and 600 / 36,000."""
    failures = Failures(10_000, 60.0, 600.0)
    assert failures.best_interval_s(1000) == pytest.approx(math.sqrt(2 * 60 * 36_000), rel=0.03)
    assert failures.stretch(1000) == pytest.approx(1 + 2 * 60 / 2078 + 600 / 36_000, rel=0.005)
    without = plan(SMALL, projector()).plans[0]
    broken = plan(replace(SMALL, failures=failures), projector()).plans[0]
    assert broken.days == pytest.approx(without.days * failures.stretch(64))
    assert broken.checkpoint_interval_s == pytest.approx(failures.best_interval_s(64))


BASE = ["plan", "--cluster", "dgx-a100-80gb", "--model", "gpt3-1.3b", "--global-batch-size", "64"]


def invoke(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*BASE, *arguments])
    return done.exit_code, done.stdout if done.exit_code == 0 else str(done.exception)


def test_command_prints_the_documented_json(tmp_path: Path) -> None:
    code, text = invoke(
        "--num-gpus",
        "8,16",
        "--train-tokens",
        "1e10",
        "--json",
        "--table",
        str(tmp_path / "p.csv"),
        "--tensor-model-parallel-size",
        "2",
        "--plot",
        str(tmp_path / "p.svg"),
    )
    assert code == 0, text
    answer = json.loads(text)
    assert answer["schema"] == "vtrain.plan/1"
    assert answer["evaluated"] >= answer["feasible"] >= len(answer["plans"]) == 10
    needed = {
        "tp",
        "pp",
        "vpp",
        "dp",
        "cp",
        "ep",
        "mbs",
        "recompute",
        "num_gpus",
        "iteration_time_s",
        "iteration_time_low_s",
        "iteration_time_high_s",
        "days",
        "cost_usd",
        "mfu",
        "peak_bytes",
        "megatron_args",
    }
    assert needed <= set(answer["plans"][0])
    assert {p["tp"] for p in answer["plans"]} == {2}
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 11
    assert "<svg" in (tmp_path / "p.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "--num-gpus"),
        (["--num-gpus", "x"], "whole number"),
        (["--num-gpus", "0"], "1 or more"),
        (["--num-gpus", "8", "--rank-by", "speed"], "takes one of"),
        (["--num-gpus", "8", "--schedules", "zb"], "there are 1f1b, dualpipe"),
        (["--num-gpus", "8", "--deadline-days", "3"], "needs --train-tokens"),
        (["--num-gpus", "8", "--train-tokens", "nan"], "takes a number from 0"),
        (["--num-gpus", "8", "--hidden-sise", "2"], "did you mean"),
        (["--num-gpus", "8", "--checkpoint-interval", "3"], "--gpu-mtbf-hours"),
        (["--num-gpus", "8", "--checkpoint-seconds", "nan"], "--gpu-mtbf-hours"),
        (["--num-gpus", "8", "--restart-seconds", "-1"], "--gpu-mtbf-hours"),
        (["--num-gpus", "8", "--rank-by", "dollars", "--price-per-gpu-hour", "0"], "needs the price of a GPU-hour"),
        (["--max-gpus", "8", "--max-tp", "0"], "--max-tp"),
        (["--num-gpus", "8", "--table", "x.txt"], "ends in neither"),
        (["--num-gpus", "8", "--table", "no/such/x.csv"], "there is no directory no/such"),
        (["--num-gpus", "8", "--num-layers-per-virtual-pipeline-stage", "5"], "no pipeline of the model's 24 layers"),
        (["--num-gpus", "8", "--decoder-first-pipeline-num-layers", "30"], "no pipeline of the model's 24 layers"),
        (["--num-gpus", "8", "--pipeline-model-parallel-layout", "Et|tt"], "ends with the loss"),
        (["--num-gpus", "8", "--search", "speed"], "there are expert-tp"),
        (["--num-gpus", "8", "--schedule", "zb-h1", "--schedules", "gpipe"], "disagree"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], word: str) -> None:
    code, text = invoke(*arguments)
    assert code != 0
    assert word in text
    assert "\n" not in text


def test_a_search_takes_the_imbalance_that_few_ranks_can_have() -> None:
    mixture = replace(presets.model("qwen3-30b-a3b"), moe_imbalance_factor=3.0)
    bounds = Bounds(max_tp=1, max_pp=1, max_cp=1, micro_batches=(1,), recompute=("none",))
    searched = list(configurations(mixture, 8, (64,), bounds, TrainSpec(1, 1)))
    factors = {(c.parallel.ep, c.model.moe_imbalance_factor) for c in searched}
    assert factors == {(1, 1.0), (2, 2.0), (4, 3.0), (8, 3.0)}


def test_every_evaluated_plan_is_kept_with_what_became_of_it() -> None:
    """The best first, as they are ranked; then those that do not fit. The rows say what the projections say."""
    search = {"cluster": "dgx-a100-80gb", "num_gpus": [8, 16], "global_batch_size": 64, "exhaustive": True, "max_pp": 2}
    result = vt.plan("gpt3-6.7b", train_tokens=1e9, search="none", **search)
    rows = result.every.rows()
    assert len(rows) == result.every.total == result.evaluated
    verdicts = [row["verdict"] for row in rows]
    assert verdicts == ["fits"] * result.feasible + ["does not fit"] * (result.evaluated - result.feasible)
    assert result.feasible < result.evaluated
    for best, row in zip(result.plans, rows, strict=False):
        assert row["megatron_args"] == shlex.join(best.to_dict()["megatron_args"])
        assert row["days"] == pytest.approx(best.days)
        assert row["mfu"] == pytest.approx(best.projection.mfu)
        assert row["peak_bytes"] == pytest.approx(best.projection.memory.worst.peak_bytes, rel=1e-6)
    late = vt.plan("gpt3-6.7b", train_tokens=1e9, search="none", deadline_days=1.1 * result.plans[0].days, **search)
    assert {"fits", "does not fit", "after the deadline"} == {row["verdict"] for row in late.every.rows()}


def test_a_search_takes_the_model_of_a_script_and_searches_its_layout(tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    script.write_text(
        "torchrun --nproc_per_node 8 pretrain_gpt.py --num-layers 8 --hidden-size 1024 --num-attention-heads 16 --bf16 "
        "--seq-length 1024 --micro-batch-size 2 --global-batch-size 32 --tensor-model-parallel-size 8 --sequence-parallel\n"
    )
    command = [
        "plan",
        "--cluster",
        "dgx-h100",
        "--megatron-args",
        str(script),
        "--train-tokens",
        "1e9",
        "--json",
        "--top",
        "300",
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "note: searched, not as the file has it: --micro-batch-size" in done.stderr
    answer = json.loads(done.stdout)
    plans, own = answer["plans"], answer["own"]
    assert (own["name"], own["tp"], own["mbs"], own["num_gpus"]) == ("train.sh", 8, 2, 8)
    assert own["rank"] > 1
    assert own["changes_to_best"]["--tensor-model-parallel-size"] == ["8", str(plans[0]["tp"])]
    assert {plan["num_gpus"] for plan in plans} == {8}
    assert len({plan["tp"] for plan in plans}) > 1
    fixed = json.loads(CliRunner().invoke(app, [*command, "--tensor-model-parallel-size", "2"]).stdout)["plans"]
    assert {plan["tp"] for plan in fixed} == {2}
    assert isinstance(CliRunner().invoke(app, ["plan", "--megatron-args", str(script)]).exception, UserError)


def test_plans_that_take_the_same_are_listed_once_wherever_they_are() -> None:
    order = np.array([3, 0, 1, 2, 4])
    times = np.array([1.0, 1.0, 1.0, 1.0, 2.0])
    memory = np.array([5.0, 7.0, 5.0 + 1e-14, 7.0, 5.0])
    assert list(without_twins(order, times, memory)) == [3, 0, 4]
    assert not len(without_twins(np.zeros(0, dtype=np.intp), np.zeros(0)))
