"""A search by bounds finds what evaluating everything finds, on random small models and clusters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from simulator.test_plan import projector
from vtrain_sim.decide import Bounds, Request, plan
from vtrain_sim.decide.search import branch_and_bound
from vtrain_sim.decide.search.bounding import Bounder, Candidates
from vtrain_sim.decide.search.choices import described
from vtrain_sim.decide.search.cuts import balanced, cuts, stage_counts
from vtrain_sim.decide.search.space import Space
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import Configuration, ModelSpec, TrainSpec

DENSE = ModelSpec(6, 1024, 16, 2048, 32000, ffn_hidden_size=4096, swiglu=True)
MIXTURE = replace(presets.model("mixtral-8x7b"), num_layers=5, name="five layers of a mixture")
LATENT = replace(presets.model("deepseek-v3"), num_layers=7, moe_layer_freq="[0]*2+[1]*5", num_experts=16)
TIED = replace(presets.model("gpt3-1.3b"), num_layers=4)
HYBRID = replace(presets.model("nemotron3-nano-30b-a3b"), num_layers=6, hybrid_layer_pattern="MEM*EM", num_experts=8)
WINDOWS = replace(presets.model("gpt-oss-20b"), num_layers=4, window_attn_skip_freq="2", num_experts=8)
DELTA = replace(presets.model("qwen3-next-80b-a3b"), num_layers=4, num_experts=16)
SEVERAL = replace(LATENT, num_layers=3, moe_layer_freq="1", mtp_num_layers=1)
MODELS = {"dense": DENSE, "mixture": MIXTURE, "latent": LATENT, "tied": TIED, "hybrid": HYBRID, "windows": WINDOWS}
MODELS |= {"delta": DELTA, "several": SEVERAL}
OPTIONAL = tuple(name for name, _, by_default in described() if not by_default)
CLUSTERS = ("dgx-a100-80gb", "dgx-h100")


@cache
def machine(cluster: str) -> Projector:
    return projector(cluster)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, Request]:
    """A small space: few micro batches, sizes and choices."""
    cluster = draw(st.sampled_from(CLUSTERS))
    model = MODELS[draw(st.sampled_from(sorted(MODELS)))]
    gpus = draw(st.sampled_from([(1,), (2,), (8,), (12,), (16,), (8, 16), (4, 8, 32)]))
    schedules = draw(
        st.sampled_from([("1f1b", "interleaved"), ("1f1b", "zb-h1", "zb-v"), ("dualpipe", "1f1b"), ("gpipe",)])
    )
    bounds = Bounds(
        max_tp=draw(st.sampled_from([1, 2, 4])),
        max_pp=draw(st.sampled_from([1, 2, 4, 6])),
        max_cp=draw(st.sampled_from([1, 2])),
        max_ep=4,
        micro_batches=draw(st.sampled_from([(1,), (1, 2), (2, 8)])),
        schedules=schedules,
        choices=draw(st.sampled_from([("default",), ("none",), ("recompute-layers",), *((one,) for one in OPTIONAL)])),
    )
    return cluster, Request(
        model,
        draw(st.sampled_from([(16,), (64,), (32, 96)])),
        tokens=draw(st.sampled_from([0.0, 1e10])),
        num_gpus=gpus,
        bounds=bounds,
        rank_by=draw(st.sampled_from(["time", "days", "dollars", "mfu"])),
        allow_tight=draw(st.booleans()),
    )


def outcome(request: Request, cluster: str, top: int) -> tuple[object, ...]:
    try:
        result = plan(request, machine(cluster), top=top)
    except UserError:
        return ("nothing",)
    best = [round(float(np.log(p.projection.iteration_time_s)), 7) for p in result.plans]
    front = [(p.projection.configuration.parallel.world_size, round(float(np.log(p.days)), 7)) for p in result.pareto]
    other = result.runner_up and round(float(np.log(result.runner_up.projection.iteration_time_s)), 7)
    return best, front, result.candidates, other


@pytest.fixture(scope="module")
def careful() -> Iterator[None]:
    """Few candidates are evaluated, and few layers timed, before the next ones are left out: much is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(branch_and_bound, "CHUNK", 4)
        patch.setattr(branch_and_bound, "_TIMED", 2)
        yield


@settings(max_examples=25, deadline=None)
@given(requests(), st.integers(1, 6))
def test_a_search_finds_what_evaluating_everything_finds(careful: None, drawn: tuple[str, Request], top: int) -> None:
    cluster, request = drawn
    searched, exhaustive = (outcome(replace(request, exhaustive=every), cluster, top) for every in (False, True))
    assert searched[:1] == exhaustive[:1]
    assert searched[3:] == exhaustive[3:]
    if request.tokens and searched[0] != "nothing":
        assert searched[1] == exhaustive[1]
    if searched[0] != "nothing":
        # Megatron refuses some combinations of sizes and settings, which a search counts.
        assert searched[2] >= exhaustive[2]


@settings(max_examples=25, deadline=None)
@given(requests(), st.randoms(use_true_random=False))
def test_no_candidate_takes_less_than_its_bound(drawn: tuple[str, Request], random: object) -> None:
    """Seconds and bytes of candidates are no less than what leaves them out; of some, which are drawn."""
    cluster, request = drawn
    model = machine(cluster)
    counts = [n for n in request.num_gpus if n > 1]
    assume(counts)
    space = Space(request.model, counts, request.batches, request.bounds, request.base)
    bounder = Bounder(space, counts, model, request.objective(model.cluster), request.allow_tight)
    costs = model.evaluator.costs_of(False)
    numbers = {int(n) for block in bounder.blocks for n in (*block.lanes.option, *bounder.parents[block.lanes.option])}
    for number in sorted(numbers):
        with suppress(UserError):  # a device does not multiply in all types
            bounder.table.add(number, space.options[number].shard, costs)
    for again in (False, True):
        for block in bounder.blocks:
            for pipeline, lanes, sharings in bounder.candidates(block, again):
                for relaxed in {again, False}:
                    for candidates, nbytes in bounder.bounded(pipeline, lanes, sharings, relaxed):
                        _check(bounder, candidates, nbytes, model, random.randrange(1 << 30))  # type: ignore[attr-defined]


def _check(bounder: Bounder, candidates: Candidates, nbytes: Sequence[float], model: Projector, draw: int) -> None:
    row = draw % len(candidates.option)
    configuration = bounder.configuration(candidates, row)
    if configuration is None:
        return
    assert configuration.parallel.world_size == candidates.gpus[row]
    assert (
        configuration.shard == bounder.space.options[int(candidates.option[row])].shard or configuration.parallel.fsdp
    )
    evaluated = model.evaluate([configuration])
    assert candidates.seconds[row] <= evaluated.iteration_time_s[0]
    fragments = bounder._sharing  # the waste is in the bound where it counts
    assert fragments is not None
    least = evaluated.peak_bytes[0]
    assert nbytes[row] <= least


def test_bounds_are_close_where_nothing_is_exchanged() -> None:
    """One GPU, no replicas: what a candidate takes is its passes, the optimizer and the host."""
    request = Request(TIED, (1024,), num_gpus=(2,), bounds=Bounds(max_tp=1, max_pp=1, max_cp=1, micro_batches=(2,)))
    model = machine("dgx-h100")
    space = Space(request.model, (2,), request.batches, request.bounds, request.base)
    bounder = Bounder(space, (2,), model, request.objective(model.cluster), False)
    (block,) = bounder.blocks
    for number in np.unique(block.lanes.option).tolist():
        bounder.table.add(number, space.options[number].shard, model.evaluator.costs_of(False))
    pipeline, lanes, sharings = next(iter(bounder.candidates(block, again=False)))
    candidates, nbytes = next(iter(bounder.bounded(pipeline, lanes, sharings, relaxed=False)))
    configuration = bounder.configuration(candidates, 0)
    assert configuration is not None
    evaluated = model.evaluate([configuration])
    assert candidates.seconds[0] > 0.8 * evaluated.iteration_time_s[0]
    assert nbytes[0] > 0.95 * evaluated.peak_bytes[0]


@given(st.integers(1, 130), st.integers(2, 24), st.integers(1, 8), st.integers(0, 1), st.integers(0, 4))
def test_cuts_have_all_layers(layers: int, pp: int, vpp: int, embedding: int, loss: int) -> None:
    counts = balanced(layers, pp, vpp, embedding, loss)
    assert sum(counts) == layers
    assert len(counts) == pp * vpp
    assert min(counts) >= 0
    if not (embedding or loss):
        assert max(counts) - min(counts) <= 1
        stages = [sum(counts[stage::pp]) for stage in range(pp)]
        assert max(stages) - min(stages) <= 1


def test_published_cuts_are_there() -> None:
    """Llama 3 405B: 126 layers, the first and the last stage one fewer (Grattafiori et al. 2024, section 3.3.2)."""
    model = presets.model("llama3-405b")
    assert 16 in stage_counts(model)
    assert (7, *[8] * 14, 7) in {layers for vpp, layers in cuts(model, 16) if vpp == 1}
    interleaved = {layers for vpp, layers in cuts(model, 16) if vpp == 8}
    assert interleaved == set()  # 128 chunks for 126 layers
    assert (1, *[2] * 62, 1) in {layers for vpp, layers in cuts(model, 8) if vpp == 8}


@pytest.mark.parametrize(
    ("flags", "stages"),
    [
        (("--decoder-first-pipeline-num-layers", "2"), {(2, 6), (2, 2, 2, 2)}),
        (("--pipeline-model-parallel-layout", "Et|ttt|ttt|tL"), {(1, 3, 3, 1), (4, 4)}),
        (("--num-layers-per-virtual-pipeline-stage", "2"), None),
    ],
)
def test_flags_that_cut_the_layers_fix_the_cut_alone(flags: Sequence[str], stages: set[tuple[int, ...]] | None) -> None:
    import vtrain as vt

    result = vt.plan(
        "gpt3-1.3b",
        cluster="dgx-a100-80gb",
        num_gpus=8,
        global_batch_size=64,
        top=1000,
        flags=["--num-layers", "8", *flags],
    )
    found: list[Configuration] = [p.projection.configuration for p in result.plans]
    assert {c.parallel.tp for c in found} >= {1, 2}
    if stages is None:
        assert {layers for c in found for layers in c.chunk_layers} == {2}
    else:
        assert {c.stage_layers for c in found} <= stages
        assert len({c.stage_layers for c in found}) > 1


def test_a_flag_means_nothing_where_there_is_nothing_of_it() -> None:
    """--tp-comm-overlap leaves tp 1 in, without the overlap."""
    import vtrain as vt

    result = vt.plan(
        "gpt3-1.3b", cluster="dgx-a100-80gb", num_gpus=8, global_batch_size=64, top=1000, flags=["--tp-comm-overlap"]
    )
    found = {
        (p.projection.configuration.parallel.tp > 1, p.projection.configuration.parallel.tp_comm_overlap)
        for p in result.plans
    }
    assert found == {(False, False), (True, True)}


def test_unknown_choices_are_a_sentence() -> None:
    with pytest.raises(UserError, match="--search speed: there are expert-tp"):
        Bounds(choices=("speed",))


def test_an_interrupted_search_keeps_the_best() -> None:
    request = Request(TIED, (64,), num_gpus=(16,))

    def stop(evaluated: int, feasible: int, share: float) -> None:
        if feasible:
            raise KeyboardInterrupt

    stopped = plan(request, machine("dgx-h100"), top=500, progress=stop)
    assert stopped.interrupted
    assert stopped.plans
    assert stopped.to_dict()["interrupted"]
    whole = plan(request, machine("dgx-h100"), top=500)
    assert not whole.interrupted
    assert whole.evaluated > stopped.evaluated
    assert whole.plans[0].days <= stopped.plans[0].days


def test_unlike_steps_are_searched_where_they_are_asked_for() -> None:
    """Precision, state of the optimizer and the like are chosen on request alone."""
    import vtrain as vt

    def best(search: str) -> Configuration:
        result = vt.plan(
            "gpt3-1.3b", cluster="dgx-h100", num_gpus=8, global_batch_size=64, search=search, flags=["--bf16"]
        )
        return result.plans[0].projection.configuration

    assert not best("default").train.fp8
    assert best("default,precision").train.fp8
    assert best("none").train == replace(best("none").train, recompute_granularity="none")
    assert TrainSpec(1, 1).fp8 == ""


def test_a_search_that_is_stopped_at_once_has_a_plan_too() -> None:
    """While it times its first layers nothing is evaluated yet: then what looks best of a few is."""
    request = Request(MIXTURE, (64,), num_gpus=(16,))

    stops = iter([True])

    def stop(evaluated: int, feasible: int, share: float) -> None:
        if next(stops, False):
            raise KeyboardInterrupt

    stopped = plan(request, machine("dgx-h100"), progress=stop)
    assert stopped.interrupted
    assert 0 < stopped.evaluated <= 96
    assert all(p.projection.memory.fits for p in stopped.plans)


def test_nothing_is_projected_twice_and_the_share_that_is_done_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there are so many candidates that some are projected before all of them are known."""
    from vtrain_sim.decide.search import branch_and_bound

    monkeypatch.setattr(branch_and_bound, "_GATHERED", 50)
    monkeypatch.setattr(branch_and_bound, "CHUNK", 8)
    shares: list[float] = []
    request = Request(MIXTURE, (64,), 1e10, num_gpus=(8, 16), bounds=Bounds(micro_batches=(1, 2)))
    few = plan(request, machine("dgx-h100"), top=50, progress=lambda done, feasible, share: shares.append(share))
    assert len(set(few.every.configurations)) == len(few.every.configurations) == few.evaluated
    assert shares == sorted(shares)
    assert 0.8 <= shares[-1] <= 1
    monkeypatch.undo()
    assert [p.days for p in plan(request, machine("dgx-h100"), top=50).plans] == [p.days for p in few.plans]


def test_evaluating_everything_leaves_out_what_the_device_does_not_multiply() -> None:
    """No H100 multiplies in 4 bits: such candidates are none, whether all are evaluated or not."""
    bounds = Bounds(max_tp=1, max_pp=1, micro_batches=(4,), choices=("precision", "sharding"))
    request = Request(TIED, (64,), num_gpus=(8,), bounds=bounds)
    searched, everything = (plan(replace(request, exhaustive=every), machine("dgx-h100")) for every in (False, True))
    assert everything.candidates > everything.evaluated == everything.feasible
    assert [p.days for p in searched.plans] == pytest.approx([p.days for p in everything.plans])
    assert everything.plans[0].projection.configuration.train.fp8


@pytest.mark.parametrize("flag", ["--use-precision-aware-optimizer", "--fp8-format hybrid --fp8-param-gather"])
def test_what_needs_the_distributed_optimizer_has_it_also_on_one_replica(flag: str) -> None:
    import vtrain as vt

    flags = ["--bf16", *flag.split()]
    result = vt.plan("gpt3-1.3b", cluster="dgx-h100", num_gpus=8, global_batch_size=64, top=1000, flags=flags)
    found = [p.projection.configuration.parallel for p in result.plans]
    assert all(parallel.distributed_optimizer or parallel.fsdp for parallel in found)
    (alone,) = vt.plan("gpt3-1.3b", cluster="dgx-h100", num_gpus=1, global_batch_size=64, top=1, flags=flags).plans
    assert alone.projection.configuration.parallel.distributed_optimizer


def test_the_optimizer_of_one_gpu_may_be_on_the_host() -> None:
    """Of 6.7 billion parameters, 18 bytes each are more than 80 GB; 6 are not."""
    import vtrain as vt

    job: dict[str, Any] = {"cluster": "dgx-a100-80gb", "num_gpus": 1, "global_batch_size": 64, "flags": ["--bf16"]}
    with pytest.raises(UserError, match="layouts fits"):
        vt.plan("gpt3-6.7b", **job)
    result = vt.plan("gpt3-6.7b", search="default,optimizer-offload", **job)
    assert result.plans[0].projection.configuration.train.optimizer_cpu_offload


def test_with_delayed_scaling_norms_do_not_run_again() -> None:
    bounds = Bounds(max_tp=2, max_pp=1, fixed=(("fp8", "hybrid"),))
    space = Space(DENSE, (8,), (64,), bounds, TrainSpec(1, 1, fp8="hybrid"))
    again = {c.train.recomputed_modules for c in space.configurations()}
    assert again == {(), ("mlp",)}


def test_experts_with_biases_are_whole_on_a_rank() -> None:
    biased = replace(MIXTURE, add_bias_linear=True)
    space = Space(biased, (8,), (64,), Bounds(max_tp=4, max_pp=1), TrainSpec(1, 1))
    found = {(c.parallel.tp, c.parallel.ep > 1, c.parallel.etp) for c in space.configurations()}
    assert {(tp, etp) for tp, _, etp in found} == {(1, 1), (2, 1), (4, 1)}
    assert {several for _, several, _ in found} == {False, True}


@pytest.mark.parametrize("schedules", [("dualpipe", "1f1b"), ("zb-v", "1f1b"), ("gpipe", "1f1b"), ("1f1b", "gpipe")])
def test_the_order_of_schedules_loses_no_plan(schedules: tuple[str, ...]) -> None:
    """On one stage too: what runs on several of them alone, or holds more there, stands in nobody's way."""
    bounds = Bounds(choices=("none",), schedules=schedules)
    request = Request(presets.model("gpt3-1.3b"), (16,), num_gpus=(1,), bounds=bounds)
    assert plan(request, machine("dgx-h100"), top=1).plans[0].projection.configuration.pipeline.schedule.name == "1f1b"


@pytest.mark.parametrize("gpus", [1, 3])
def test_layers_of_split_passes_on_one_stage_are_timed_on_their_own_ranks(gpus: int) -> None:
    bounds = Bounds(choices=("none",), schedules=("dualpipev", "zb-h1"), max_pp=1)
    space = Space(replace(TIED, num_layers=2), (gpus,), (12,), bounds, TrainSpec(1, 1))
    found = list(space.configurations())
    assert found
    assert {option.prototype.parallel.world_size for option in space.options} == {gpus}
    assert {c.shard for c in found} <= {option.shard for option in space.options}
