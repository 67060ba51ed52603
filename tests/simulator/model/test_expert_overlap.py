"""Exchanges of tokens beside another microbatch's compute."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vtrain_sim.costs.surfaces import Surfaces
from vtrain_sim.inputs import presets
from vtrain_sim.model import Communication, Parts, Wait
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.simulate.result import Projection
from vtrain_sim.specs import Configuration, ParallelSpec, SpecError, TrainSpec
from vtrain_sim.specs.shard import LayerKind

MODEL = presets.model("qwen3-30b-a3b")
LAYOUT = ParallelSpec(dp=16, ep=16, distributed_optimizer=True)
BASE = Configuration(MODEL, LAYOUT, TrainSpec(1, 64))
OVERLAPPED = replace(BASE, parallel=replace(LAYOUT, overlap_moe_comm=True))


def projected(configuration: Configuration) -> Projection:
    cluster = "dgx-h100"
    # Where the host holds up nothing.
    surfaces = Surfaces.from_dict(presets.cluster_surfaces(cluster))
    overhead_s = {name: seconds for name, seconds in surfaces.overhead_s.items() if name != "overlap_launch"}
    surfaces = replace(surfaces, host_s={}, host_each_s={}, overhead_s=overhead_s)
    return Projector.modelled(presets.cluster(cluster), surfaces).project(configuration)


def test_exchanges_begin_with_the_layer_and_are_over_at_its_end() -> None:
    """The same exchanges, issued first, waited for last."""
    usual, overlapped = (Parts(c.shard).layer(LayerKind(mixture=True)) for c in (BASE, OVERLAPPED))
    for before, after in ((usual.forward, overlapped.forward), (usual.backward, overlapped.backward)):
        exchanges = [i for i in before if isinstance(i, Communication)]
        assert [(i.op, i.nbytes) for i in after[: len(exchanges)] if isinstance(i, Communication)] == [
            (i.op, i.nbytes) for i in exchanges
        ]
        assert not any(i.blocking for i in after if isinstance(i, Communication))
        assert {i.name for i in after if isinstance(i, Wait)} == {"combine", "dispatch"}
        assert isinstance(after[-1], Wait)
        # Two waits, and what launching the parts takes.
        assert len(before) + 3 == len(after)


def test_overlap_hides_exchanges_but_not_longer_than_there_is_compute() -> None:
    """An all-to-all over two nodes outlasts the compute of a layer; with one copy per node it does not."""
    usual, overlapped = projected(BASE), projected(OVERLAPPED)
    assert overlapped.iteration_time_s < 0.9 * usual.iteration_time_s
    assert overlapped.breakdown_s["ep communication"] > 0.3 * overlapped.iteration_time_s
    flex = replace(OVERLAPPED, parallel=replace(OVERLAPPED.parallel, moe_token_dispatcher="hybridep"))
    hidden = projected(flex)
    assert hidden.breakdown_s.get("ep communication", 0.0) < 0.15 * hidden.iteration_time_s


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ep": 1}, "--expert-model-parallel-size of 2 or more"),
        ({"moe_token_dispatcher": "allgather"}, "alltoall or flex"),
        ({"moe_shared_expert_overlap": True}, "exclude each other"),
    ],
)
def test_what_megatron_does_not_overlap_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        replace(OVERLAPPED.parallel, **changes)  # type: ignore[arg-type]
