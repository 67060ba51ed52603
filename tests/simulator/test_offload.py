"""Offloading to the host: what goes there, how long it shows, what the device keeps, and updates that run there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.simulate.strategies import Machine
from vtrain_sim.errors import UserError
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.model import Communication, Parts, build_step
from vtrain_sim.simulate.memory import parameter_terms
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.simulate.timeline import timeline
from vtrain_sim.specs import Configuration
from vtrain_sim.specs.shard import LayerKind

H, S, LAYERS = 256, 128, 4
GPT = (
    f"--num-layers {LAYERS} --hidden-size {H} --num-attention-heads 8 --seq-length {S} --vocab-size 1024 --bf16 "
    "--micro-batch-size 2 --global-batch-size 16 --hidden-dropout 0 --attention-dropout 0 --num-experts 4 "
    "--moe-router-topk 2 --moe-ffn-hidden-size 128"
)
FINE = "--fine-grained-activation-offloading --min-offloaded-tensor-size 0 --offload-modules"
# A microbatch's hidden states, 2 bytes each.
HIDDEN = 2 * S * 2 * H


def read(flags: str) -> Configuration:
    return configuration_from_flags(f"{GPT} {flags}".split())


def projector(host_bandwidth: float = 1e9) -> Projector:
    machine = Machine("dgx-h100", 1.0, 1.0, 0.0).projector()
    device = replace(machine.cluster.device, host_bandwidth=host_bandwidth, host_memory_bandwidth=28e9)
    cluster = replace(machine.cluster, device=device)
    return Projector(cluster, machine.evaluator.operators, machine.evaluator.collectives)


def copies(configuration: Configuration, direction: str = "forward") -> list[int]:
    """Bytes of each layer's copy."""
    (stage,) = build_step(configuration).stages
    return [
        item.nbytes
        for program, count in stage.chunks[0]
        for _ in range(count)
        for item in getattr(program, direction)
        if isinstance(item, Communication) and item.role == "host"
    ]


@pytest.mark.parametrize(
    ("modules", "nbytes"),
    [
        ("attn_norm", HIDDEN),
        ("qkv_linear", HIDDEN),
        ("core_attn", 3 * HIDDEN),
        ("core_attn attn_proj", 4 * HIDDEN),
        ("mlp_norm", HIDDEN),
        # Each token has two experts, whose inner width is half of the hidden size.
        ("expert_fc1", 2 * HIDDEN),
        ("moe_act", 2 * HIDDEN // 2),
        ("expert_fc1 moe_act", 3 * HIDDEN),
    ],
)
def test_inputs_of_modules_go_to_the_host_and_come_back(modules: str, nbytes: int) -> None:
    configuration = read(f"{FINE} {modules}")
    # Fused attention keeps a statistic of each row beside its inputs, 4 bytes for each token and head.
    extra = 4 * 2 * S * 8 if "core_attn" in modules else 0
    # The last layer keeps what it has.
    assert copies(configuration) == [nbytes + extra] * (LAYERS - 1)
    assert copies(configuration, "backward") == [nbytes + extra] * (LAYERS - 1)
    parts, kind = Parts(configuration.shard), LayerKind(mixture=True)
    plain = Parts(read("").shard).layer(kind).kept_bytes
    assert parts.layer(kind).kept_bytes == plain - nbytes - extra
    assert parts.layer(replace(kind, stays=True)).kept_bytes == plain


def test_activations_of_shared_experts_stay_and_those_of_every_expert_go() -> None:
    shared = "--moe-shared-expert-intermediate-size 64 --no-moe-grouped-gemm"
    assert copies(read(f"{shared} {FINE} moe_act")) == [2 * HIDDEN // 2] * (LAYERS - 1)


def test_bounds_of_activations_go_with_them() -> None:
    plain = read(f"--swiglu {FINE} moe_act")
    bounded = read(f"--quick-geglu --activation-func-clamp-value 7 {FINE} moe_act")
    # A kernel of its own for the bounds keeps its input beside the activation's.
    assert copies(bounded) == [2 * nbytes for nbytes in copies(plain)]


def test_small_tensors_stay() -> None:
    few = "--fine-grained-activation-offloading --offload-modules attn_norm core_attn --min-offloaded-tensor-size"
    assert copies(read(f"{few} {2 * S * H}")) == [4 * HIDDEN + 4 * 2 * S * 8] * (LAYERS - 1)
    assert copies(read(f"{few} {2 * S * H + 1}")) == [3 * HIDDEN + 4 * 2 * S * 8] * (LAYERS - 1)
    assert copies(read(few.partition(" --min")[0])) == []


def test_layers_are_spread_over_all() -> None:
    configuration = read("--cpu-offloading-num-layers 3")
    saved = Parts(configuration.shard).layer(LayerKind(mixture=True)).saved_bytes
    assert copies(configuration) == [round(0.75 * saved)] * LAYERS


def test_a_slow_link_shows_and_a_fast_one_does_not() -> None:
    configuration, none = read(f"{FINE} core_attn"), read("")
    without = projector().project(none).iteration_time_s
    fast = projector(1e15).project(configuration)
    assert fast.iteration_time_s == pytest.approx(without, rel=1e-3)
    slow = projector(1e6).project(configuration)
    # All copies one after the other, forward and backward, of 8 microbatches.
    link = 8 * (sum(copies(configuration)) + sum(copies(configuration, "backward"))) / 1e6
    assert link <= slow.iteration_time_s <= link + without
    assert slow.breakdown_s["offloading to the host"] > 0.9 * link
    exact = timeline(projector(1e6).evaluator, configuration, detail="passes").iteration_time_s
    assert exact == pytest.approx(slow.iteration_time_s, rel=1e-9)


def test_a_device_that_does_not_say_its_link_is_refused() -> None:
    machine = projector(0.0)
    with pytest.raises(UserError, match="does not say its host_bandwidth"):
        machine.project(read(f"{FINE} core_attn"))


AWARE = "--use-precision-aware-optimizer --use-distributed-optimizer --optimizer-cpu-offload"


def test_the_host_updates_its_part() -> None:
    """4 bytes of gradients there, 28 bytes read and written for Adam, 2 bytes of parameters back."""
    whole, half = read(AWARE), read(f"{AWARE} --optimizer-offload-fraction 0.5")
    (stage,) = build_step(whole).stages
    count = stage.holding.total
    items = [i for i in stage.update if isinstance(i, Communication) and i.role == "host"]
    assert [(i.op, i.nbytes) for i in items] == [
        ("copy", 4 * count),
        ("host_update", 28 * count),
        ("copy", 2 * count),
    ]
    assert "optimizer" not in {i.name for i in stage.update}
    terms = parameter_terms(whole.replicas, stage.holding, 0)
    assert terms.optimizer == 0
    on_device = parameter_terms(half.replicas, stage.holding, 0).optimizer
    assert on_device == pytest.approx(count * (2 + 4 + 4) / 2, abs=10)
    machine = projector(1e9)
    apart = machine.project(whole).iteration_time_s
    beside = machine.project(read(f"{AWARE} --overlap-cpu-optimizer-d2h-h2d")).iteration_time_s
    # 28 bytes at 28 GB/s and 4 + 2 at 1 GB/s: 7 ns each; at the same time, the 4 ns of the gradients.
    assert apart - beside == pytest.approx(3e-9 * count, rel=1e-6)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ("--fine-grained-activation-offloading", "needs --offload-modules"),
        (f"{FINE} attn_proj", "needs core_attn"),
        (f"{FINE} core_attn --cpu-offloading-num-layers 1", "exclude each other"),
        (f"{FINE} core_attn --recompute-granularity full", "does not go with"),
        (f"{FINE} moe_act --recompute-granularity selective --recompute-modules moe", "does not go with"),
        (f"{FINE} core_atn", "did you mean 'core_attn'"),
        ("--optimizer-cpu-offload", "needs --use-precision-aware-optimizer"),
        ("--optimizer-offload-fraction 2", "from 0 to 1"),
    ],
)
def test_what_is_refused(flags: str, word: str) -> None:
    with pytest.raises(UserError) as caught:
        read(flags)
    assert word in str(caught.value)
