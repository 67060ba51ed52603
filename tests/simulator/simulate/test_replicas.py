"""Gradients and parameters that replicas exchange beside the passes: buckets, when they begin, what shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from simulator.simulate.machine import FixedCollectives, FixedOperators, cluster
from simulator.simulate.strategies import Machine, configurations, machines
from vtrain_sim.costs import CollectiveCosts
from vtrain_sim.model import Communication, build_step, communications_of
from vtrain_sim.schedules import get, names
from vtrain_sim.simulate.batch import Evaluation, Evaluator
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.simulate.timeline import timeline
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec

MODEL = ModelSpec(8, 1024, 8, 512, 1024, untie_embeddings_and_output_weights=True)
# Parameters: of a layer, of the input embedding with its positions, of the final norm and the output layer.
LAYER, EMBEDDING, HEAD = 12 * 1024**2 + 13 * 1024, (1024 + 512) * 1024, 1024 * 1024 + 2 * 1024
# Schedules whose order does not depend on durations: with more to do they are never faster.
FIXED_ORDER = [name for name in names() if not get(name).adaptive]
# Times that are sums of the same parts in another order.
ROUNDING = 1e-12
SLOW = {"max_examples": 30, "deadline": None, "suppress_health_check": list(HealthCheck)}


def evaluator(
    operators: dict[str, float], per_byte: dict[str, float], overlap_efficiency: float = 1.0, slowdown: float = 1.0
) -> Evaluator:
    stubs: Any = (FixedOperators(operators), FixedCollectives({}, per_byte))
    return Evaluator(cluster(overlap_efficiency, slowdown), *stubs)


# -- buckets -------------------------------------------------------------------------------------


def exchanged(one: Evaluator, configuration: Configuration, stage: int, name: str) -> list[int]:
    """Bytes of each exchange of a stage's buckets, in order."""
    spans = timeline(one, configuration, stages=[stage], detail="passes").spans
    return [s.item.nbytes for s in spans if s.name == name and isinstance(s.item, Communication)]


@pytest.mark.parametrize(
    ("size", "filled"),
    [
        # From the back: the output layer alone does not fill a bucket of one layer's parameters, with the last layer
        # it does; the first layer fills one too, and the embedding is left.
        (LAYER, [HEAD + LAYER, LAYER, LAYER, EMBEDDING]),
        (LAYER + HEAD, [HEAD + LAYER, 2 * LAYER, EMBEDDING]),
        (2 * LAYER, [HEAD + 2 * LAYER, LAYER + EMBEDDING]),
        (1, [HEAD, LAYER, LAYER, LAYER, EMBEDDING]),
        (10**9, [HEAD + 3 * LAYER + EMBEDDING]),
    ],
)
def test_buckets_fill_from_the_last_layer_on(size: int, filled: list[int]) -> None:
    """fp32 gradients, 16-bit parameters."""
    parallel = ParallelSpec(
        dp=4, distributed_optimizer=True, overlap_grad_reduce=True, overlap_param_gather=True, bucket_size=size
    )
    configuration = Configuration(replace(MODEL, num_layers=3), parallel, TrainSpec(1, 4))
    one = evaluator({"gemm": 1.0}, {"dp": 1e-9})
    assert exchanged(one, configuration, 0, "grad_sync") == [4 * n for n in filled]
    assert exchanged(one, configuration, 0, "param_gather") == [2 * n for n in reversed(filled)]


def test_only_the_first_chunk_of_the_first_stage_has_several_buckets() -> None:
    parallel = ParallelSpec(dp=2, pp=2, vpp=2, overlap_grad_reduce=True, bucket_size=LAYER)
    configuration = Configuration(MODEL, parallel, TrainSpec(1, 4))
    one = evaluator({"gemm": 1.0}, {"dp": 1e-9})
    # The second chunk's gradients are complete first.
    assert exchanged(one, configuration, 0, "grad_sync") == [4 * n for n in (2 * LAYER, LAYER, LAYER, EMBEDDING)]
    assert exchanged(one, configuration, 1, "grad_sync") == [4 * n for n in (2 * LAYER + HEAD, 2 * LAYER)]


def test_experts_are_reduced_over_their_own_replicas() -> None:
    model = replace(MODEL, num_experts=4, moe_router_topk=1, moe_ffn_hidden_size=512)
    configuration = Configuration(model, ParallelSpec(dp=4, ep=2), TrainSpec(1, 4))
    stage = build_step(configuration).stages[0]
    experts = 8 * 2 * (2 * 1024 * 512 + 512 + 1024)
    assert stage.expert_parameters == experts
    assert [(r.group.role, r.group.size, r.nbytes) for r in communications_of(stage.sync)] == [
        ("dp", 4, 4 * stage.parameters),
        ("expert_dp", 2, 4 * experts),
    ]


@settings(**SLOW)
@given(st.sampled_from(names()).flatmap(configurations))
def test_every_parameter_is_reduced_once(configuration: Configuration) -> None:
    """Whatever the buckets are; of an empty stage nothing is."""
    parallel = replace(
        configuration.parallel, fsdp=False, cp=1, cp_comm_type="p2p", cp_a2a_size=0, ep=1, expert_tp=0,
        overlap_grad_reduce=True, dp=2, moe_shared_expert_overlap=False,
    )  # fmt: skip
    model = ModelSpec(configuration.model.num_layers, 256, 8, 512, 1000)
    train = replace(
        configuration.train, global_batch_size=2 * configuration.num_microbatches, micro_batch_size=1,
        moe_grouped_gemm=True, recompute_modules=("core_attn",),
    )  # fmt: skip
    dense = Configuration(model, parallel, train)
    one = evaluator({"gemm": 1.0}, {"dp": 1e-9})
    for stage in build_step(dense).stages:
        assert sum(exchanged(one, dense, stage.stage, "grad_sync")) == 4 * stage.parameters


# -- what shows, by hand -------------------------------------------------------------------------

# A layer's products take 4 s forward and 8 s backward.
PRODUCTS = {"gemm/forward": 1.0, "gemm/backward": 2.0}


def evaluate(parallel: ParallelSpec, microbatches: int, reduce_s: float, model: ModelSpec = MODEL) -> Evaluation:
    """On a machine where reducing one layer's gradients takes `reduce_s`; the output layer is a product too."""
    one = evaluator(PRODUCTS, {"dp": reduce_s / (4 * LAYER)})
    return one.evaluate([Configuration(model, parallel, TrainSpec(1, 2 * microbatches))])


def test_without_a_pipeline_all_buckets_but_the_last_are_hidden() -> None:
    """Eight layers of 8 s backward; a bucket per layer of 3 s runs beside the next layer's pass."""
    parallel = ParallelSpec(dp=2, overlap_grad_reduce=True, bucket_size=LAYER)
    result = evaluate(parallel, 1, 3.0)
    # The embedding's gradients come last, and the last layer's just before: neither has anything to hide behind.
    # The first layer's bucket begins with the embedding's backward pass, which takes no time here.
    assert result.exposed_s[0] == pytest.approx(3.0 * (1 + EMBEDDING / LAYER))
    # One that takes longer than a layer's pass queues up: 8 buckets, the first of which begins after the output
    # layer (2 s) and the last layer (8 s); the passes end at 2 + 8 x 8.
    slow = evaluate(parallel, 1, 20.0)
    begin, end = 2.0 + 8.0, 2.0 + 8 * 8.0
    assert slow.exposed_s[0] == pytest.approx(begin + 20.0 * (8 + (HEAD + EMBEDDING) / LAYER) - end)


def test_later_stages_reduce_all_at_once_after_their_last_pass() -> None:
    """Megatron: only the first chunk of the first stage has several buckets, as the others have time to wait."""
    parallel = ParallelSpec(dp=2, pp=4, overlap_grad_reduce=True, bucket_size=LAYER, align_grad_reduce=False)
    result = evaluate(parallel, 4, 3.0)
    assert result.exposed_s[1] == result.exposed_s[2] == pytest.approx(2 * 3.0)
    assert result.exposed_s[3] == pytest.approx(2 * 3.0 + 3.0 * HEAD / LAYER)
    # The first stage's two layers are a bucket each: that of the second is hidden behind the first one's pass.
    assert result.exposed_s[0] == pytest.approx(3.0 + 3.0 * EMBEDDING / LAYER)
    # They would be waiting anyway: stage 1 has ended 8 s x 2 before stage 0.
    assert result.end_s[0] - result.end_s[1] == pytest.approx(16.0)


def test_interleaving_hides_what_1f1b_exposes() -> None:
    """Chunks that are done reduce while the others' backward passes go on."""
    plain = ParallelSpec(dp=2, pp=4, overlap_grad_reduce=True, align_grad_reduce=False)
    interleaved = replace(plain, vpp=2, overlap_p2p=True)
    for reduce_s in (3.0, 8.0, 30.0):
        whole, chunks = (evaluate(parallel, 4, reduce_s).exposed_s for parallel in (plain, interleaved))
        assert (chunks < whole).all()
    # Of a stage's two layers, in two chunks, one is still to be reduced after the last pass.
    assert evaluate(interleaved, 4, 3.0).exposed_s[1] == pytest.approx(3.0)


def test_parameters_are_gathered_before_the_first_forward_pass() -> None:
    """Bucket by bucket on the first stage, each 4 s of which hide behind a layer's forward pass of 4 s."""
    parallel = ParallelSpec(
        dp=2, distributed_optimizer=True, overlap_grad_reduce=True, overlap_param_gather=True, bucket_size=LAYER
    )
    one = evaluator(PRODUCTS, {"dp": 4.0 / (2 * LAYER)})
    configuration = Configuration(MODEL, parallel, TrainSpec(1, 2))
    with_gathers, without = one.evaluate([configuration]), one.evaluate([configuration], without_gathers=True)
    late = with_gathers.end_s[0] - without.end_s[0]
    # The embedding's and the first layer's parameters have nothing before them; in the bucket of the last layer are
    # the output layer's, for which it waits longer than a layer's pass.
    assert late == pytest.approx(4.0 * (1 + (EMBEDDING + HEAD) / LAYER))


@pytest.mark.parametrize("overlap_param_gather", [False, True])
def test_with_an_overlap_efficiency_of_0_replicas_exchange_in_line(overlap_param_gather: bool) -> None:
    one = evaluator(PRODUCTS, {"dp": 1.0 / LAYER}, overlap_efficiency=0.0)
    parallel = ParallelSpec(dp=2, distributed_optimizer=True)
    after = Configuration(MODEL, parallel, TrainSpec(1, 2))
    switches = {"overlap_grad_reduce": True, "overlap_param_gather": overlap_param_gather}
    beside = replace(after, parallel=replace(parallel, **switches))
    # 4 bytes of gradient and 2 of parameters: 6 s per layer's worth, however they are said to overlap.
    passes_s = 8 * 3 * 4.0 + 3.0
    exchanges_s = 6.0 * (8 + (EMBEDDING + HEAD) / LAYER)
    assert one.evaluate([after]).iteration_time_s[0] == pytest.approx(passes_s + exchanges_s)
    assert one.evaluate([beside]).iteration_time_s[0] == pytest.approx(passes_s + exchanges_s)
    assert timeline(one, beside).iteration_time_s == pytest.approx(passes_s + exchanges_s)


# -- more is never less --------------------------------------------------------------------------


def iteration_s(machine: Machine, configuration: Configuration, scale: float = 1.0) -> float:
    """Iteration time where the network between nodes and inside them has `1 / scale` of its bandwidth."""
    projector = machine.projector()
    if scale != 1.0:
        slower = {
            name: replace(
                level := getattr(projector.cluster, name),
                bandwidth=level.bandwidth / scale,
                node_bandwidth=level.node_bandwidth / scale,
            )
            for name in ("intra_node", "inter_node")
        }
        scaled = replace(projector.cluster, **slower)
        projector = Projector(scaled, projector.evaluator.operators, CollectiveCosts(scaled))
    return float(projector.evaluate([configuration]).iteration_time_s[0])


@settings(**SLOW)
@given(st.sampled_from(FIXED_ORDER).flatmap(configurations), machines)
def test_reductions_that_hide_more_are_never_slower(configuration: Configuration, machine: Machine) -> None:
    """Not so the gathers: one that the first stage waits for delays stages that hold less, and would wait less."""
    configuration = replace(configuration, parallel=replace(configuration.parallel, overlap_param_gather=False))
    none, some, every = (
        iteration_s(replace(machine, overlap_slowdown=1.0, overlap_efficiency=efficiency), configuration)
        for efficiency in (0.0, 0.6, 1.0)
    )
    assert some <= none * (1 + ROUNDING)
    assert every <= some * (1 + ROUNDING)


@settings(**SLOW)
@given(st.sampled_from(FIXED_ORDER).flatmap(configurations), machines)
def test_slower_communication_is_never_faster(configuration: Configuration, machine: Machine) -> None:
    now = iteration_s(machine, configuration)
    assert iteration_s(machine, configuration, scale=4.0) >= now * (1 - ROUNDING)
    beside = iteration_s(replace(machine, overlap_slowdown=1.0), configuration)
    assert iteration_s(replace(machine, overlap_slowdown=2.0), configuration) >= beside * (1 - ROUNDING)


@settings(**SLOW)
@given(st.sampled_from(FIXED_ORDER).flatmap(configurations), machines)
def test_reducing_beside_the_passes_is_never_slower_than_after_them(
    configuration: Configuration, machine: Machine
) -> None:
    """In one bucket: more of them would pay their latency more often."""
    parallel = replace(configuration.parallel, overlap_param_gather=False, bucket_size=1 << 40)
    after = replace(configuration, parallel=replace(parallel, overlap_grad_reduce=False))
    beside = replace(configuration, parallel=replace(parallel, overlap_grad_reduce=True))
    # In one place per stage: with more they would pay it more often, too.
    assume(configuration.parallel.vpp == get(configuration.schedule).parameter_copies == 1)
    assert iteration_s(machine, beside) <= iteration_s(machine, after) * (1 + ROUNDING)
