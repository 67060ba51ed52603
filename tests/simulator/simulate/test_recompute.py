"""What recomputation takes, and that nothing which an evaluator keeps is taken for something else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.simulate.machine import costs, seconds_of
from simulator.simulate.strategies import Machine, configurations, machines
from vtrain_sim.costs import CollectiveCosts
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets
from vtrain_sim.model import Parts
from vtrain_sim.schedules import names
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec
from vtrain_sim.specs.shard import LayerKind

PRODUCTS = {"gemm/forward": 4.0, "gemm/recompute": 4.0, "gemm/backward": 8.0}


def fresh(projector: Projector) -> Projector:
    """The same machine, of which nothing has been asked yet."""
    return Projector(projector.cluster, projector.evaluator.operators, CollectiveCosts(projector.cluster))


def test_block_and_uniform_recomputation_are_told_apart_by_one_evaluator() -> None:
    """One evaluator once gave "block, 1 layer" the layout of "uniform": 3.997 s instead of 43.01 s."""
    model = presets.model("gpt3-175b")
    parallel = ParallelSpec(tp=8, pp=16, dp=8, sequence_parallel=True, distributed_optimizer=True)
    uniform = Configuration(model, parallel, TrainSpec(1, 1536, recompute_granularity="full"))
    block = replace(uniform, train=replace(uniform.train, recompute_method="block"))
    projector = Machine("dgx-h100", 1.0, 1.0, 0.0).projector()
    for first, second in ((uniform, block), (block, uniform)):
        one = fresh(projector)
        times = [float(one.evaluate([c]).iteration_time_s[0]) for c in (first, second)]
        assert times == [float(fresh(projector).evaluate([c]).iteration_time_s[0]) for c in (first, second)]
    layers = [fresh(projector).evaluate([c]) for c in (uniform, block)]
    # All of a stage's six layers run again, or one of them.
    assert layers[0].iteration_time_s[0] > 1.15 * layers[1].iteration_time_s[0]
    assert layers[0].peak_bytes[0] < layers[1].peak_bytes[0]


@pytest.mark.parametrize("exchange_s", [1.0, 3.5, 5.0, 9.0])
@pytest.mark.parametrize(
    "parallel",
    [
        ParallelSpec(tp=4, sequence_parallel=True, tp_comm_overlap=True),
        ParallelSpec(tp=4, sequence_parallel=True),
        ParallelSpec(tp=4),
    ],
    ids=["overlapped", "sequence parallel", "tensor parallel"],
)
def test_a_layer_that_runs_again_takes_its_forward_pass_more(parallel: ParallelSpec, exchange_s: float) -> None:
    """Each exchange hides behind its own product: in the backward pass of a recomputed layer there are two products of
    each name, of 4 s and of 8 s, and the cover was once that of the first one."""
    parts = Parts(Configuration(ModelSpec(4, 1024, 8, 512, 1024), parallel, TrainSpec(1, 1)).shard)
    plain, again = parts.layer(LayerKind()), parts.layer(LayerKind(recomputed=True))
    model = costs(PRODUCTS, {"tp": exchange_s})
    assert seconds_of(again.forward, model) == seconds_of(plain.forward, model)
    expected = seconds_of(plain.forward, model) + seconds_of(plain.backward, model)
    assert seconds_of(again.backward, model) == pytest.approx(expected)


# Every choice that does not change what may be combined with what.
VARIANTS: list[tuple[str, str, Any]] = [
    ("train", "recompute_granularity", "full"),
    ("train", "recompute_granularity", "selective"),
    ("train", "recompute_granularity", "none"),
    ("train", "recompute_method", "block"),
    ("train", "recompute_method", "uniform"),
    ("train", "attention_kernel", "flash"),
    ("train", "fp8", "hybrid"),
    ("train", "fp8", ""),
    ("train", "gradient_accumulation_fusion", False),
    ("train", "moe_grouped_gemm", False),
    ("train", "main_grads_dtype", "bfloat16"),
    ("parallel", "tp_comm_overlap", True),
    ("parallel", "async_tp_allreduce", False),
    ("parallel", "distributed_optimizer", True),
    ("parallel", "overlap_grad_reduce", True),
    ("parallel", "align_grad_reduce", False),
    ("parallel", "bucket_size", 50_000),
    ("parallel", "batch_p2p", False),
    ("parallel", "overlap_p2p", True),
    ("parallel", "scatter_gather", True),
    ("parallel", "moe_shared_expert_overlap", True),
    ("parallel", "moe_token_dispatcher", "allgather"),
    ("parallel", "fsdp", True),
    ("model", "qk_layernorm", True),
    ("model", "dropout", False),
    ("model", "swiglu", True),
    ("model", "normalization", "RMSNorm"),
    ("model", "untie_embeddings_and_output_weights", True),
    ("model", "moe_imbalance_factor", 1.25),
    ("model", "add_bias_linear", False),
]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(names()).flatmap(configurations),
    st.lists(st.sampled_from(VARIANTS), min_size=2, max_size=5, unique=True),
    machines,
)
def test_what_an_evaluator_keeps_is_of_the_configuration(
    configuration: Configuration, variants: list[tuple[str, str, Any]], machine: Machine
) -> None:
    """Configurations that differ in one field, in one evaluator and in evaluators of their own."""
    projector = machine.projector()
    shared = fresh(projector)
    for part, name, value in variants:
        try:
            changed = replace(configuration, **{part: replace(getattr(configuration, part), **{name: value})})
        except UserError:
            continue
        one, alone = shared.evaluate([changed]), fresh(projector).evaluate([changed])
        assert one.iteration_time_s[0] == alone.iteration_time_s[0], (part, name)
        assert one.peak_bytes[0] == alone.peak_bytes[0], (part, name)
        assert one.hardware_flops[0] == alone.hardware_flops[0], (part, name)
