"""CUDA graphs: what the host launches of a layer, and that a host that is too slow shows only without them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.simulate.strategies import Machine
from vtrain_sim.errors import UserError
from vtrain_sim.inputs.megatron_emit import emit_flags
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.model import Compute, Parts, Program
from vtrain_sim.specs import Configuration
from vtrain_sim.specs.shard import LayerKind

GPT = (
    "--num-layers 4 --hidden-size 256 --num-attention-heads 8 --seq-length 128 --micro-batch-size 1 "
    "--global-batch-size 8 --num-experts 8 --moe-router-topk 2"
)
ATTENTION = {"input_layernorm", "linear_qkv", "rope", "core_attention", "linear_proj"}
ROUTER = {"pre_mlp_layernorm", "router"}


def read(flags: str) -> Configuration:
    return configuration_from_flags(f"{GPT} {flags}".split())


def layer(configuration: Configuration, mixture: bool = True) -> Program:
    return Parts(configuration.shard).layer(LayerKind(mixture=mixture))


def launches(program: Program) -> dict[str, list[int | None]]:
    """Of each captured operator, in both directions."""
    found: dict[str, list[int | None]] = {}
    for item in (*program.forward, *program.backward):
        if isinstance(item, Compute) and item.launches is not None:
            found.setdefault(item.name, []).append(item.launches)
    return found


def test_padded_experts_are_captured_whole() -> None:
    padded = "--moe-expert-capacity-factor 1 --moe-pad-expert-input-to-capacity"
    program = layer(read(f"--cuda-graph-impl transformer_engine --cuda-graph-scope moe {padded}"))
    captured = launches(program)
    assert {"pre_mlp_layernorm", "token_drop", "experts_fc2", "permute"} <= set(captured)
    assert sum(count for counts in captured.values() for count in counts if count) == 2
    with pytest.raises(UserError, match="the host waits"):
        read("--cuda-graph-impl local --cuda-graph-scope moe_router --moe-expert-capacity-factor 1")


def test_nothing_is_captured_without_an_implementation() -> None:
    assert launches(layer(read("--cuda-graph-scope attn"))) == {}
    assert read("--cuda-graph-scope attn").train.graphed == ()


def test_a_scope_captures_its_modules_and_is_one_launch_in_each_direction() -> None:
    captured = launches(layer(read("--cuda-graph-impl transformer_engine --cuda-graph-scope attn moe_router")))
    assert set(captured) == ATTENTION | ROUTER
    assert sum(count for counts in captured.values() for count in counts if count) == 2 * 2
    assert captured["input_layernorm"] == [1, 0]
    prepared = launches(
        layer(read("--cuda-graph-impl transformer_engine --cuda-graph-scope moe_router moe_preprocess"))
    )
    assert set(prepared) == ROUTER | {"permute"}


@pytest.mark.parametrize("flags", ["--cuda-graph-impl local", "--enable-cuda-graph", "--external-cuda-graph"])
def test_without_a_scope_whole_layers_are_captured(flags: str) -> None:
    program = layer(read(flags), mixture=False)
    operators = [i for i in (*program.forward, *program.backward) if isinstance(i, Compute)]
    assert all(item.launches is not None for item in operators)
    assert sum(item.launches or 0 for item in operators) == 2


def test_a_dense_block_is_captured_in_dense_layers_alone() -> None:
    configuration = read("--cuda-graph-impl transformer_engine --cuda-graph-scope mlp --moe-layer-freq 2")
    assert set(launches(layer(configuration, mixture=False))) == {
        "pre_mlp_layernorm",
        "linear_fc1",
        "activation",
        "linear_fc2",
    }
    assert launches(layer(configuration)) == {}


@pytest.mark.parametrize(
    "flags", ["--cuda-graph-impl local --cuda-graph-scope full_iteration", "--cuda-graph-impl full_iteration"]
)
def test_a_slow_host_shows_only_without_graphs(flags: str) -> None:
    """A host of 1 ms a launch holds up a small model; a graph of the whole iteration takes it out of the passes."""
    slow, fast = Machine("dgx-h100", 1.0, 1.0, 1e-3), Machine("dgx-h100", 1.0, 1.0, 0.0)
    plain, graphed = read(""), read(flags)
    times = {
        (machine.launch_s > 0, one is graphed): machine.projector().project(one).iteration_time_s
        for machine in (slow, fast)
        for one in (plain, graphed)
    }
    assert times[True, False] > 2 * times[False, False]
    update_s = times[True, True] - times[False, True]
    # The optimizer's few launches are outside of the graph.
    assert update_s < 0.05 * (times[True, False] - times[False, False])
    partly = read("--cuda-graph-impl transformer_engine --cuda-graph-scope attn moe_router")
    assert times[True, True] < slow.projector().project(partly).iteration_time_s < times[True, False]


def test_flags_there_and_back() -> None:
    configuration = read("--cuda-graph-impl transformer_engine --cuda-graph-scope moe_preprocess attn moe_router")
    assert configuration.train.cuda_graph_scope == ("attn", "moe_router", "moe_preprocess")
    assert configuration_from_flags(emit_flags(configuration)) == configuration
    assert replace(configuration.train, cuda_graph_impl="none").graphed == ()
    with pytest.raises(UserError, match="did you mean 'moe_router'"):
        read("--cuda-graph-impl local --cuda-graph-scope moe_rout")
    with pytest.raises(UserError, match="--cuda-graph-impl is 'jax'"):
        read("--cuda-graph-impl jax")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--cuda-graph-impl transformer_engine --cuda-graph-scope moe", "moe needs experts that drop tokens"),
        ("--cuda-graph-impl local --cuda-graph-scope moe moe_router", "moe and moe_router exclude each other"),
        ("--cuda-graph-impl transformer_engine --cuda-graph-scope moe_preprocess", "moe_preprocess needs moe_router"),
        ("--cuda-graph-impl transformer_engine --cuda-graph-scope full_iteration", "needs --cuda-graph-impl local"),
        ("--cuda-graph-impl local --cuda-graph-scope full attn", "no other scope goes with it"),
        ("--cuda-graph-impl local --cuda-graph-scope mlp", "mlp needs a dense layer"),
        ("--cuda-graph-impl local --cuda-graph-scope moe_router --num-experts 0", "moe_router needs --num-experts"),
        (
            "--cuda-graph-impl transformer_engine --cuda-graph-scope moe_router moe_preprocess --num-experts 0",
            "moe_router needs --num-experts",
        ),
        (
            "--cuda-graph-impl transformer_engine --cuda-graph-scope attn --recompute-granularity full",
            "whole iteration",
        ),
        ("--cuda-graph-impl local --recompute-granularity full", "whole iteration"),
        (
            "--cuda-graph-impl transformer_engine --cuda-graph-scope moe_router --recompute-granularity selective "
            "--recompute-modules moe",
            "does not go with --recompute-modules moe",
        ),
    ],
)
def test_what_megatron_does_not_capture_is_refused(flags: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read(flags)
    assert read(
        flags.replace("--cuda-graph-impl local", "--cuda-graph-impl none").replace("transformer_engine", "none")
    )


def test_what_megatron_captures_is_not_refused() -> None:
    iteration = read("--cuda-graph-impl local --cuda-graph-scope full_iteration --recompute-granularity full")
    assert iteration.train.graphed == ("full_iteration",)
    assert read("--cuda-graph-impl full_iteration --recompute-granularity full").train.graphed == ("full_iteration",)
    assert read("--cuda-graph-impl local --cuda-graph-scope moe_router").train.graphed == (
        "moe_router",
        "moe_preprocess",
    )
    mixed = read("--cuda-graph-impl local --cuda-graph-scope mlp --moe-layer-freq 2")
    assert mixed.train.graphed == ("mlp",)


def test_exchanges_beside_another_microbatch_take_no_full_recomputation_and_one_depth() -> None:
    overlap = "--expert-model-parallel-size 2 --data-parallel-size 2 --overlap-moe-expert-parallel-comm"
    staged = "--pipeline-model-parallel-size 2 --num-virtual-stages-per-pipeline-rank 2"
    assert read(f"{overlap} {staged} --mtp-num-layers 1").parallel.overlap_moe_comm
    for flags, named in (
        ("--recompute-granularity full", "--recompute-granularity full"),
        ("--recompute-granularity selective --recompute-modules moe", "--recompute-modules moe"),
        ("--mtp-num-layers 2", "--mtp-num-layers"),
    ):
        assert read(flags)
        with pytest.raises(UserError, match=f"--overlap-moe-expert-parallel-comm .*{named}"):
            read(f"{overlap} {flags}")
