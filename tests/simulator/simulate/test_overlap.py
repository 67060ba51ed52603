"""What communication hides behind, by hand: tiny programs on a machine whose every time is chosen."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from simulator.simulate.machine import costs, seconds_of
from simulator.simulate.strategies import configurations
from vtrain_schemas.operators import Operator
from vtrain_sim.costs.surfaces import DeviceSurface, Surfaces
from vtrain_sim.inputs import presets
from vtrain_sim.model import Communication, Compute, Parts
from vtrain_sim.model.attention import attention_block
from vtrain_sim.model.experts import moe_block
from vtrain_sim.model.shard import Region, Shard
from vtrain_sim.simulate.passes import ChunkTimer
from vtrain_sim.simulate.streams import STREAMS, spans_of
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec
from vtrain_sim.specs.shard import ChunkSpec, LayerKind

MODEL = ModelSpec(8, 1024, 8, 512, 1024)
EXPERTS = ModelSpec(8, 1024, 8, 512, 1024, num_experts=8, moe_router_topk=2, moe_shared_expert_intermediate_size=512)
# A product takes 4 s, its backward pass 8 s: 4 s for each of its two gradients.
PRODUCT = {"gemm/forward": 4.0, "gemm/backward": 8.0}


def shard(parallel: ParallelSpec, model: ModelSpec = MODEL, **train: object) -> Shard:
    return Shard(Configuration(model, parallel, TrainSpec(1, parallel.dp, **train)).shard)  # type: ignore[arg-type]


def region(kind: str, gather_s: float, *, overlap: dict[str, float] | None = None, **parallel: object) -> tuple:
    """Seconds of the forward and backward pass of one tensor-parallel linear layer on 4 ranks."""
    one = shard(ParallelSpec(tp=4, **parallel))  # type: ignore[arg-type]
    linear = one.linear("linear", 512, 1024, 1024)
    sides: Region = getattr(one, f"{kind}_parallel")("region", linear)
    model = costs(PRODUCT, {"tp": gather_s}, **(overlap or {}))
    return tuple(seconds_of(items, model) for items in sides)


@pytest.mark.parametrize(
    ("kind", "switches", "short", "long"),
    [
        # Without sequence parallelism: the input's gradient is summed beside the weights' gradient, or after both.
        ("column", {}, (4, 8), (4, 4 + 5)),
        ("column", {"async_tp_allreduce": False}, (4, 8 + 2), (4, 8 + 5)),
        ("row", {}, (4 + 2, 8), (4 + 5, 8)),
        # The input is gathered ahead of the product; again beside the input's gradient; scattered beside the weights'.
        ("column", {"sequence_parallel": True}, (2 + 4, 4 + 4), (5 + 4, 5 + 5)),
        ("row", {"sequence_parallel": True}, (4 + 2, 2 + 8), (4 + 5, 5 + 8)),
        # In four pieces: one product has to wait for the last piece, or has it go out after it; the other three are
        # beside. Backward, the three pieces are of the input's gradient, 4 s of the 8 s.
        ("column", {"sequence_parallel": True, "tp_comm_overlap": True}, (3 + 1, 4 + 4), (5 + 1, 5 + 5)),
        ("row", {"sequence_parallel": True, "tp_comm_overlap": True}, (1 + 3, 3 + 5), (1 + 5, 5 + 5)),
    ],
)
def test_tensor_parallel_regions(
    kind: str, switches: dict[str, object], short: tuple[float, ...], long: tuple[float, ...]
) -> None:
    assert region(kind, 2.0, **switches) == pytest.approx(short)
    assert region(kind, 5.0, **switches) == pytest.approx(long)


def test_beside_compute_communication_is_slower_and_after_it_is_not() -> None:
    def forward(gather_s: float) -> float:
        pieces = {"sequence_parallel": True, "tp_comm_overlap": True}
        seconds: float = region("column", gather_s, overlap={"overlap_slowdown": 1.5}, **pieces)[0]
        return seconds

    # 2 s take 3 s beside 3 s of product; of 4 s, 2 are done in those 3 s, and 2 follow at full speed.
    assert forward(2.0) == pytest.approx(3 + 1)
    assert forward(4.0) == pytest.approx(3 + 2 + 1)


def test_what_cannot_hide_is_in_line() -> None:
    def forward(overlap_efficiency: float) -> float:
        pieces = {"sequence_parallel": True, "tp_comm_overlap": True}
        return region("column", 2.0, overlap={"overlap_efficiency": overlap_efficiency}, **pieces)[0]

    assert forward(0.0) == pytest.approx(2 + 4)
    assert forward(0.5) == pytest.approx(1 + 4)
    assert forward(1.0) == pytest.approx(4)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(configurations())
def test_with_an_overlap_efficiency_of_0_a_layer_takes_the_sum_of_its_parts(configuration: Configuration) -> None:
    model = costs({"gemm": 3.0, "grouped_gemm": 5.0, "attention": 2.0, "norm": 0.5}, {"tp": 1.0, "ep": 2.0, "cp": 1.5,
        "dp": 4.0, "expert_dp": 0.5, "expert_tp": 0.25, "tp_ep": 3.0}, overlap_efficiency=0.0)  # fmt: skip
    parts = Parts(configuration.shard)
    for mixture in set(configuration.model.moe_layers):
        program = parts.layer(LayerKind(mixture, configuration.train.recompute_granularity == "full"))
        for items in (program.forward, program.backward):
            total = sum(model.operator(i.operator).seconds * i.share for i in items if isinstance(i, Compute))
            total += sum(model.communication(i).seconds for i in items if isinstance(i, Communication))
            assert seconds_of(items, model) == pytest.approx(total)


def test_ring_attention_works_on_what_is_there_while_the_rest_comes() -> None:
    """Of four ranks' keys and values, three come round while attention works; the last part waits for them."""
    forward, back = attention_block(shard(ParallelSpec(cp=4)))
    for seconds, expected in ((5.0, (8.0, 16.0)), (7.0, (7.0 + 2.0, 16.0)), (13.0, (13.0 + 2.0, 13.0 + 4.0))):
        model = costs({"attention/forward": 8.0, "attention/backward": 16.0}, {"cp": seconds})
        assert (seconds_of(forward, model), seconds_of(back, model)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("overlap", "swap_s", "expected"),
    [
        # Two all-to-alls, two grouped products of 10 s (20 s backward), two shared products of 3 s (6 s).
        (False, 4.0, (4 + 20 + 4 + 6, 12 + 4 + 40 + 4)),
        (True, 4.0, (4 + 20 + 4, 6 + 40 + 6)),
        (True, 2.0, (3 + 20 + 3, 6 + 40 + 6)),
        (True, 9.0, (9 + 20 + 9, 9 + 40 + 9)),
    ],
)
def test_shared_experts_beside_the_exchanges(overlap: bool, swap_s: float, expected: tuple[float, float]) -> None:
    parallel = ParallelSpec(dp=4, ep=4, moe_shared_expert_overlap=overlap)
    model = costs({"gemm/forward": 3.0, "gemm/backward": 6.0, "grouped_gemm/forward": 10.0,
        "grouped_gemm/backward": 20.0}, {"ep": swap_s})  # fmt: skip
    assert tuple(seconds_of(items, model) for items in moe_block(shard(parallel, EXPERTS))) == pytest.approx(expected)


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_fully_sharded_layers_are_gathered_ahead_and_scattered_behind(layers: int) -> None:
    """Four products of 1 s (2 s) per layer: only the first gather and the last scatter show."""
    configuration = Configuration(MODEL, ParallelSpec(dp=4, fsdp=True), TrainSpec(1, 4))

    def passes(exchange_s: float) -> tuple[float, float]:
        model = costs({"gemm/forward": 1.0, "gemm/backward": 2.0}, {"dp": exchange_s})
        times = ChunkTimer(configuration.shard, model).times(ChunkSpec(((LayerKind(), layers),)))
        return times.forward_s, times.backward_s

    assert passes(3.0) == pytest.approx((3 + 4 * layers, 3 + 8 * layers + 3))
    # Exchanges that take longer than a layer come one right after the other: they share the links.
    assert passes(10.0) == pytest.approx((10 * layers + 4, 20 * layers + (8 if layers == 1 else 0)))


@pytest.mark.parametrize("layers", [2, 7])
def test_no_more_is_exchanged_at_once_than_links_carry(layers: int) -> None:
    """However little there is to compute, every byte takes its time on the links."""
    configuration = Configuration(MODEL, ParallelSpec(dp=4, fsdp=True), TrainSpec(1, 4))
    timer = ChunkTimer(configuration.shard, costs({}, {"dp": 1.0}))
    chunk = ChunkSpec(((LayerKind(), layers),), embedding=True, head=True)
    parts = layers + 2
    assert timer.times(chunk)[:2] == pytest.approx((parts, 2 * parts))


def test_the_parameters_of_two_programs_at_most_are_gathered() -> None:
    """However fast the links are, a gather begins when the program before the one before has ended."""
    configuration = Configuration(MODEL, ParallelSpec(dp=4, fsdp=True), TrainSpec(1, 4))
    timer = ChunkTimer(configuration.shard, costs({"gemm": 1.0}, {"dp": 1e-3}))
    runs = timer.runs(ChunkSpec(((LayerKind(), 5),), embedding=True, head=True))
    gathers: list[float] = []
    ends: list[float] = []
    clocks = [0.0] * STREAMS
    for timed in (program for program, count in runs for _ in range(count)):
        spans = spans_of(timed.forward.steps, clocks)
        gathers += [span.start for span in spans if isinstance(span.step.item, Communication)]
        if timed.program.parameters:
            ends.append(max(span.end for span in spans if isinstance(span.step.item, Compute)))
    assert len(gathers) == len(ends) == 5 + 2
    assert all(start >= end for start, end in zip(gathers[2:], ends, strict=False))


def test_selective_recomputation_runs_the_scores_again() -> None:
    model = costs({"attention/forward": 8.0, "attention/recompute": 8.0, "attention/backward": 16.0})
    times = [
        seconds_of(attention_block(shard(ParallelSpec(), recompute_granularity=g))[1], model)
        for g in ("none", "selective")
    ]
    assert times == [16.0, 24.0]


@pytest.mark.parametrize(("graphs", "launches"), [({}, 2), ({"cuda_graph_impl": "full_iteration"}, 0)])
def test_the_host_takes_longer_where_two_microbatches_run_together(graphs: dict[str, object], launches: int) -> None:
    """Forward and backward, unless a graph holds the whole iteration; without the overlap there is no such item."""
    for overlap, expected in ((True, launches), (False, 0)):
        parts = Parts(shard(ParallelSpec(dp=4, ep=4, overlap_moe_comm=overlap), EXPERTS, **graphs).spec)
        program = parts.layer(LayerKind(mixture=True))
        assert sum(item.name == "overlap_launch" for item in (*program.forward, *program.backward)) == expected


def test_the_host_may_take_longer_for_it_than_the_device_waits() -> None:
    coefficients = Surfaces(host_s={"overlap_launch": 0.25}, overhead_s={"overlap_launch": 0.125})
    surface = DeviceSurface(presets.cluster("dgx-h100").device, coefficients)
    launched = Operator("overlap_launch", "forward")
    assert (surface.launch_seconds(launched), surface.seconds(launched)) == (0.25, 0.125)
