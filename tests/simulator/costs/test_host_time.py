"""Host time of a call besides its launches."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vtrain_schemas.operators import Operator
from vtrain_sim.costs import CollectiveCosts, OperatorCosts
from vtrain_sim.costs.surfaces import DeviceSurface, Surfaces
from vtrain_sim.inputs import presets
from vtrain_sim.model import Parts
from vtrain_sim.simulate.cost_model import CostModel
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import Configuration, ParallelSpec, TrainSpec
from vtrain_sim.specs.shard import LayerKind

DEVICE = presets.device("b200-sxm-180gb")
PRESET = Surfaces.from_dict(presets.cluster_surfaces("dgx-b200"))


def test_host_time_of_a_phase_is_added_to_the_launches() -> None:
    surfaces = Surfaces(launch_s=5e-6, host_s={"grouped_gemm/backward": 1e-3})
    surface = DeviceSurface(DEVICE, surfaces)
    forward = Operator("grouped_gemm", "forward", 4096, 1536, 2048, 8)
    assert surface.launch_seconds(forward) == pytest.approx(5e-6)
    assert surface.launch_seconds(replace(forward, phase="backward")) == pytest.approx(1e-3 + 10e-6)
    each = DeviceSurface(DEVICE, replace(surfaces, host_each_s={"grouped_gemm/forward": 2e-5}))
    assert each.launch_seconds(forward) == pytest.approx(5e-6 + 8 * 2e-5)
    assert Surfaces.from_dict({"host_s": {"router": 2e-4}}).host_s == {"router": 2e-4}


@pytest.mark.parametrize("name", ["grouped_gemm", "router", "gemm"])
def test_gradients_that_run_apart_take_the_host_as_long_as_together(name: str) -> None:
    for surfaces in (PRESET, Surfaces(launch_s=5e-6, host_s={name: 1e-3}, host_each_s={f"{name}/backward": 1e-5})):
        surface = DeviceSurface(DEVICE, surfaces)
        whole = Operator(name, "backward", 4096, 1536, 2048, 8 if name == "grouped_gemm" else 1)
        apart = [surface.launch_seconds(replace(whole, phase=phase)) for phase in ("dgrad", "wgrad")]
        assert sum(apart) == pytest.approx(surface.launch_seconds(whole))


def test_splitting_the_backward_pass_spares_the_host_nothing() -> None:
    """Without a pipeline, in a model that waits for the host, there is nothing to fill with weight gradients."""

    def seconds(schedule: str) -> float:
        parallel = ParallelSpec(dp=8, ep=8, distributed_optimizer=True)
        configuration = Configuration(presets.model("qwen3-30b-a3b"), parallel, TrainSpec(1, 64, schedule=schedule))
        return Projector.modelled(presets.cluster("dgx-b200"), PRESET).project(configuration).iteration_time_s

    assert seconds("zb-h1") > 0.97 * seconds("1f1b")


def test_experts_one_after_the_other_are_one_layer_to_the_host() -> None:
    """What the host does for a layer of experts it does once, and launches the kernels of each of them."""
    surfaces = Surfaces(launch_s=5e-6, host_s={"grouped_gemm": 1e-3})

    def host_s(grouped: bool, surfaces: Surfaces) -> float:
        train = TrainSpec(1, 64, moe_grouped_gemm=grouped)
        configuration = Configuration(presets.model("qwen3-30b-a3b"), ParallelSpec(dp=8, ep=8), train)
        operators = OperatorCosts(DeviceSurface(DEVICE, surfaces))
        costs = CostModel(presets.cluster("dgx-b200"), operators, CollectiveCosts(presets.cluster("dgx-b200")))
        program = Parts(configuration.shard).layer(LayerKind(mixture=True))
        return sum(step.host_s for items in (program.forward, program.backward) for step in costs.steps(items))

    launches = replace(surfaces, host_s={})
    for grouped in (True, False):
        # Two products, in two directions.
        assert host_s(grouped, surfaces) - host_s(grouped, launches) == pytest.approx(4e-3)
    assert host_s(False, launches) > host_s(True, launches) + 15 * 6 * 5e-6


def test_small_microbatches_of_experts_wait_for_the_host() -> None:
    """One sequence of 4,096 tokens is not enough work for a layer of experts; four take little longer."""

    def seconds(size: int, surfaces: Surfaces) -> float:
        parallel = ParallelSpec(dp=8, ep=8, moe_token_dispatcher="hybridep", distributed_optimizer=True)
        configuration = Configuration(presets.model("qwen3-30b-a3b"), parallel, TrainSpec(size, 64))
        return Projector.modelled(presets.cluster("dgx-b200"), surfaces).project(configuration).iteration_time_s

    assert seconds(1, PRESET) > 1.5 * seconds(1, replace(PRESET, host_s={}, host_each_s={}))
    assert seconds(4, PRESET) < 0.6 * seconds(1, PRESET)
