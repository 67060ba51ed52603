"""Kernels of expert blocks that are not one product: bounds, biases, padding, rotary embedding; the host between them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vtrain_schemas.operators import Operator, kind
from vtrain_sim.costs.surfaces import Surfaces
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.model import Compute, Item, Parts, Program
from vtrain_sim.model.program import Stream
from vtrain_sim.simulate.streams import Step, issue
from vtrain_sim.specs import Configuration, ParallelSpec, TrainSpec
from vtrain_sim.specs.shard import LayerKind

OSS = Configuration(presets.model("gpt-oss-120b"), ParallelSpec(dp=8, ep=8), TrainSpec(4, 32))
QWEN = Configuration(presets.model("qwen3-30b-a3b"), ParallelSpec(dp=8, ep=8), TrainSpec(4, 32))
ROWS = 4 * 4096 * 4
MIXTURE = LayerKind(mixture=True)


def changed(base: Configuration, flags: str) -> Configuration:
    return configuration_from_flags(flags.split(), base)


def layer(configuration: Configuration) -> Program:
    return Parts(configuration.shard).layer(MIXTURE)


def of_kind(items: tuple[Item, ...], name: str) -> list[Operator]:
    return [i.operator for i in items if isinstance(i, Compute) and i.operator.kind == name]


def test_bounds_of_the_gate_are_kernels_of_their_own() -> None:
    """Both halves of what goes into the gate, forward and backward, and kept twice: before and within its bounds."""
    bounded = layer(OSS)
    free = layer(replace(OSS, model=replace(OSS.model, activation_func_clamp_value=0.0)))
    (forward,), (back,) = (of_kind(items, "clamp") for items in (bounded.forward, bounded.backward))
    assert (forward.m, forward.n) == (back.m, back.n) == (ROWS, 2 * 2880)
    assert (forward.bytes(), back.bytes()) == (8 * ROWS * 5760, 15 * ROWS * 5760)
    assert bounded.saved_bytes - free.saved_bytes == 2 * ROWS * 5760
    assert of_kind(free.forward, "clamp") == []


def test_recomputed_activations_are_bounded_again() -> None:
    """Of the first product's output one copy stays; both kernels run once more."""
    again = layer(changed(OSS, "--recompute-granularity selective --recompute-modules moe_act"))
    phases = [o.phase for o in of_kind(again.backward, "clamp")]
    assert phases == ["recompute", "backward"]
    plain = layer(OSS)
    assert plain.saved_bytes - again.saved_bytes == ROWS * (2 * 2880 + 2880) * 2


def test_one_fused_kernel_has_bounds_and_biases_in_it() -> None:
    """Transformer Engine's op fuser: no kernels besides the products' own and the activation's."""
    fused = layer(changed(OSS, "--use-transformer-engine-op-fuser"))
    assert of_kind(fused.forward, "clamp") == of_kind(fused.forward, "expert_bias") == []
    assert len(of_kind(fused.forward, "grouped_gemm")) == len(of_kind(layer(OSS).forward, "grouped_gemm"))


def test_kernels_of_biases_grow_with_the_experts() -> None:
    few, many = (
        of_kind(
            layer(replace(OSS, parallel=ParallelSpec(dp=ep, ep=ep), train=TrainSpec(4, 256))).forward, "expert_bias"
        )[0]
        for ep in (64, 8)
    )
    assert (few.k, many.k) == (2, 16)
    assert kind("expert_bias").launches(many) - kind("expert_bias").launches(few) == 2 * 14


def test_scaled_rotary_embedding_is_not_one_kernel() -> None:
    """Queries and keys, not values: 64 + 8 of 64 + 2 x 8 heads."""
    (steps,) = of_kind(layer(OSS).forward, "rotary_steps")
    assert (steps.m, steps.n) == (4 * 4096, 72 * 64)
    assert of_kind(layer(QWEN).forward, "rotary_steps") == []


@pytest.mark.parametrize(
    ("flags", "pads"),
    [
        ("", 0),
        ("--fp8-format e4m3 --fp8-recipe mxfp8", 2),
        ("--fp8-format e4m3 --fp8-recipe mxfp8 --moe-router-padding-for-quantization", 0),
        (
            "--fp8-format e4m3 --fp8-recipe mxfp8 --moe-token-dispatcher-type flex "
            "--moe-flex-dispatcher-backend hybridep",
            0,
        ),
    ],
)
def test_rows_are_padded_for_narrow_products(flags: str, pads: int) -> None:
    """In kernels before and after the experts, unless the router or the exchange has done so."""
    program = layer(changed(QWEN, flags))
    assert len(of_kind(program.forward, "pad_rows")) == len(of_kind(program.backward, "pad_rows")) == pads


def test_the_host_waits_for_the_counts_of_tokens() -> None:
    """Once in a forward pass; not beside another microbatch, for capacities, or within a graph of the iteration."""

    def waits(configuration: Configuration) -> tuple[int, int]:
        program = layer(configuration)
        forward, back = (
            sum(isinstance(i, Compute) and i.host_waits for i in items) for items in (program.forward, program.backward)
        )
        return forward, back

    assert waits(QWEN) == (1, 0)
    assert waits(changed(QWEN, "--overlap-moe-expert-parallel-comm")) == (0, 0)
    assert waits(changed(QWEN, "--moe-expert-capacity-factor 1.0 --moe-pad-expert-input-to-capacity")) == (0, 0)
    assert waits(changed(QWEN, "--cuda-graph-impl local --cuda-graph-scope full_iteration")) == (0, 0)


def test_a_host_that_waits_begins_when_the_device_is_done() -> None:
    """Device work that ends at 10.5 s; then the host launches for 3 s what runs for 1 s."""
    item = layer(QWEN).forward[0]
    first = Step(item, Stream.COMPUTE, 10.0, host_s=1.0, first_launch_s=0.5)
    for host_waits, end in ((True, 13.5), (False, 11.5)):
        second = Step(item, Stream.COMPUTE, 1.0, 3.0, 0.5, host_waits=host_waits)
        clocks = [0.0] * len(Stream)
        issue([first, second], clocks, max)
        assert clocks[Stream.COMPUTE] == pytest.approx(end)


def test_a_kind_without_coefficients_takes_those_of_the_one_it_is_like() -> None:
    """On A100, where nothing is said of bounds: those of a norm; and nothing else than its own where there is one."""
    a100, h100 = (Surfaces.from_dict(presets.cluster_surfaces(name)) for name in ("dgx-a100-80gb", "dgx-h100"))
    norm, bounds, bias = (Operator(name, "backward", 4096, 4096) for name in ("norm", "clamp", "expert_bias"))
    assert a100.coefficient(a100.efficiency, bounds, 1.0) == a100.coefficient(a100.efficiency, norm, 1.0) < 1.0
    assert h100.coefficient(h100.sigma, bias, 1.0) == 0.5 != h100.coefficient(h100.sigma, norm, 1.0)
