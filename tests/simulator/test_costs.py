"""Costs: measured where measured, sharpened by neighbours, honest about the rest."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtrain_schemas.operators import Operator
from vtrain_sim.calibration.network import fit_inter_node, fit_intra_node, read_collectives
from vtrain_sim.calibration.surfaces import fit_gemms, read_gemms, to_toml
from vtrain_sim.costs import (
    MEASURED,
    MODELLED,
    CollectiveCosts,
    MeasuredCollectives,
    MeasuredOperators,
    OperatorCosts,
)
from vtrain_sim.costs.algorithms import bus_factor
from vtrain_sim.costs.measured import Measurement
from vtrain_sim.costs.surfaces import DeviceSurface, GemmSurface, Surfaces, Tile, tile_seconds
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets
from vtrain_sim.model import operators_of
from vtrain_sim.simulate.cost_model import CostModel
from vtrain_sim.simulate.passes import ChunkTimer
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import Configuration, DeviceSpec, ModelSpec, ParallelSpec, TrainSpec
from vtrain_sim.specs.shard import ChunkSpec, LayerKind

DEVICE = DeviceSpec("d", {"bfloat16": 100e12}, 1e12, 1 << 34)
sizes = st.sampled_from([256, 512, 1000, 1024, 3000, 4096, 8192])


def gemm(m: int, n: int, k: int, phase: str = "forward") -> Operator:
    return Operator("gemm", phase, m, n, k)


def truth(operator: Operator) -> float:
    """A device that is 0.6 of the roofline at small and 0.8 at large sizes."""
    size = math.log2(operator.m * operator.n * operator.k)
    return DeviceSurface(DEVICE).seconds(operator) / (0.6 + 0.2 * min(1.0, max(0.0, (size - 24) / 12)))


def costs(*measured: Operator) -> OperatorCosts:
    entries = [(o, Measurement(truth(o), 0.01, 10)) for o in measured]
    return OperatorCosts(DeviceSurface(DEVICE), MeasuredOperators(entries))


def test_measured_shape_is_returned_as_measured() -> None:
    operator = gemm(1024, 1024, 1024)
    estimate = costs(operator).estimate(operator)
    assert estimate.provenance == MEASURED
    assert estimate.seconds == truth(operator)


def test_the_product_of_one_expert_takes_what_a_plain_one_was_measured_to_take() -> None:
    alone = Operator("grouped_gemm", "forward", 1024, 1024, 512, batch=1)
    estimate = costs(gemm(1024, 1024, 512)).estimate(alone)
    assert (estimate.provenance, estimate.seconds) == (MEASURED, truth(gemm(1024, 1024, 512)))
    assert costs(gemm(1024, 1024, 512)).estimate(replace(alone, batch=2)).provenance == MODELLED


def test_recomputed_forward_costs_what_the_forward_costs() -> None:
    operator = gemm(1024, 1024, 1024)
    assert costs(operator).estimate(replace(operator, phase="recompute")).provenance == MEASURED


def test_backward_from_its_two_gradients() -> None:
    parts = gemm(512, 512, 512, "dgrad"), gemm(512, 512, 512, "wgrad")
    estimate = costs(*parts).estimate(gemm(512, 512, 512, "backward"))
    assert estimate.provenance == MEASURED
    assert estimate.seconds == pytest.approx(sum(truth(p) for p in parts))


def test_nothing_measured_is_modelled_with_a_wide_band() -> None:
    estimate = costs().estimate(gemm(1024, 1024, 1024))
    assert estimate.provenance == MODELLED
    assert estimate.sigma > 0.5


def test_a_few_measurements_lower_the_error_at_unseen_shapes() -> None:
    unseen = [gemm(m, n, k) for m in (512, 2048) for n in (768, 3072) for k in (1024, 6144)]

    def error(model: OperatorCosts) -> float:
        return float(np.mean([abs(math.log(model.estimate(o).seconds / truth(o))) for o in unseen]))

    none = error(costs())
    one = error(costs(gemm(1024, 1024, 1024)))
    several = error(costs(gemm(1024, 1024, 1024), gemm(256, 512, 512), gemm(4096, 4096, 4096)))
    assert several < one < none
    assert several < 0.1


@given(sizes, sizes, sizes)
def test_band_widens_away_from_the_data(m: int, n: int, k: int) -> None:
    model = costs(gemm(1024, 1024, 1024))
    near = model.estimate(gemm(1100, 1024, 1024)).sigma
    assert model.estimate(gemm(m * 64, n, k)).sigma >= near - 1e-9
    assert model.estimate(gemm(1024, 1024, 1024)).sigma <= near


@given(sizes, sizes, sizes)
def test_surfaces_are_monotone_in_every_size(m: int, n: int, k: int) -> None:
    surface = DeviceSurface(
        presets.device("a100-sxm-80gb"), Surfaces.from_dict(presets.cluster_surfaces("dgx-a100-80gb"))
    )
    base = surface.seconds(gemm(m, n, k))
    for bigger in (gemm(2 * m, n, k), gemm(m, 2 * n, k), gemm(m, n, 2 * k)):
        assert surface.seconds(bigger) >= base


def test_tile_and_wave_quantisation() -> None:
    """108 units: 109 tiles take two waves; a column more than a tile takes another tile."""
    tile, units, rate = Tile(128, 128, 1.0), 108, 1e12
    one = tile_seconds(128, 128 * 108, 1024, tile, units, rate, 0.0)
    assert one == pytest.approx(2 * 128 * 128 * 1024 / rate)
    assert tile_seconds(128, 128 * 109, 1024, tile, units, rate, 0.0) == pytest.approx(2 * one)
    assert tile_seconds(128, 128 * 108 + 1, 1024, tile, units, rate, 0.0) == pytest.approx(2 * one)


def test_calibration_recovers_the_device_that_made_the_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    device = presets.device("a100-sxm-80gb")
    tiles = (Tile(256, 128, 0.8), Tile(128, 128, 0.7), Tile(64, 64, 0.4))
    true = Surfaces(108, {"bfloat16": GemmSurface(tiles, 2e-6)}, overhead_s={"gemm": 4e-6})
    surface = DeviceSurface(device, true)
    shapes = rng.choice([256, 512, 768, 1024, 2048, 4096, 8192], size=(400, 3))
    path = tmp_path / "gemm.csv"
    lines = ["m,n,k,duration_us,source"]
    lines += [f"{m},{n},{k},{surface.seconds(gemm(int(m), int(n), int(k))) * 1e6},x" for m, n, k in shapes]
    path.write_text("\n".join(lines))
    fit = fit_gemms(device, 108, read_gemms(path, "x"))
    fitted = DeviceSurface(device, fit.surfaces)
    unseen = [gemm(*(int(v) for v in s)) for s in rng.choice([384, 1536, 3072, 6144], size=(60, 3))]
    errors = [abs(math.log(fitted.seconds(o) / surface.seconds(o))) for o in unseen]
    # Neighbouring tiles can stand in for each other at a few shapes: most must be exact.
    assert np.median(errors) < 0.03
    assert np.mean(errors) < 0.1
    assert "[surfaces]" in to_toml(fit.surfaces)
    with pytest.raises(UserError, match="no GEMM"):
        read_gemms(path, "other")


# -- communication -------------------------------------------------------------------------------


def test_bus_factors_are_the_rings() -> None:
    assert bus_factor("all_reduce", 4) == 1.5
    assert bus_factor("all_gather", 4) == 0.75
    assert bus_factor("p2p", 2) == 1.0


def measured() -> MeasuredCollectives:
    table = MeasuredCollectives()
    for exponent in range(10, 27, 2):
        table.add("all_reduce", 2, 1 << exponent, 5e-5 + (1 << exponent) / 1e9, 0.01)
    return table


def test_measured_sizes_between_and_beyond() -> None:
    table = measured()
    exact = table.estimate("all_reduce", 2, 1 << 20)
    between = table.estimate("all_reduce", 2, 3 << 19)
    beyond = table.estimate("all_reduce", 2, 1 << 28)
    assert exact is not None
    assert between is not None
    assert beyond is not None
    assert exact.provenance == MEASURED
    assert between.seconds == pytest.approx(5e-5 + (3 << 19) / 1e9, rel=0.1)
    assert beyond.seconds == pytest.approx(5e-5 + (1 << 28) / 1e9, rel=0.01)
    assert beyond.provenance == MODELLED
    assert beyond.sigma > between.sigma


@given(st.integers(1, 1 << 34), st.integers(1, 1 << 34))
def test_more_bytes_never_take_less_time(a: int, b: int) -> None:
    table = measured()
    small, large = table.estimate("all_reduce", 2, min(a, b)), table.estimate("all_reduce", 2, max(a, b))
    assert small is not None
    assert large is not None
    assert small.seconds <= large.seconds * (1 + 1e-9)


def test_unmeasured_communication_without_a_network_is_refused() -> None:
    from vtrain_sim.specs import ClusterSpec, NetworkLevel

    nothing = NetworkLevel("unknown", 1.0, 0.0)
    cluster = ClusterSpec("c", DEVICE, 8, nothing, nothing)
    with pytest.raises(UserError, match="vtrain-profile collectives"):
        CollectiveCosts(cluster).over_nodes("all_reduce", 4, 1 << 20)
    assert CollectiveCosts(cluster).over_nodes("all_reduce", 1, 1 << 20).seconds == 0.0


def test_nodes_and_shared_links_cost_time() -> None:
    network = CollectiveCosts(presets.cluster("dgx-a100-80gb"))
    inside = network.over_nodes("all_reduce", 8, 1 << 28, nodes=1).seconds
    whole_nodes = network.over_nodes("all_reduce", 16, 1 << 28, nodes=2).seconds
    alone = network.over_nodes("all_reduce", 16, 1 << 28, nodes=16, sharers=1).seconds
    shared = network.over_nodes("all_reduce", 16, 1 << 28, nodes=16, sharers=8).seconds
    assert inside < whole_nodes < alone < shared


def test_network_calibration_recovers_the_network_that_made_the_table(tmp_path: Path) -> None:
    cluster = presets.cluster("dgx-a100-80gb")
    true = replace(
        cluster,
        intra_node=replace(cluster.intra_node, bandwidth=200e9, latency_s=2e-5, ramp_s=5e-5, copy_bandwidth=900e9),
        inter_node=replace(cluster.inter_node, node_bandwidth=90e9, latency_s=9e-5, hop_latency_s=4e-6),
    )
    costs = CollectiveCosts(true)
    lines = ["collective,gpus,nodes,bytes,duration_us"]
    for op in ("all_reduce", "all_gather", "reduce_scatter"):
        for gpus, nodes in ((2, 1), (4, 1), (8, 1), (16, 2), (64, 8)):
            for exponent in range(18, 30):
                seconds = costs.over_nodes(op, gpus, 1 << exponent, nodes).seconds
                lines.append(f"{op},{gpus},{nodes},{1 << exponent},{seconds * 1e6}")
    path = tmp_path / "nccl.csv"
    path.write_text("\n".join(lines))
    rows = read_collectives(path)
    intra, _ = fit_intra_node(cluster, rows)
    fitted = replace(cluster, intra_node=intra)
    fitted = replace(fitted, inter_node=fit_inter_node(fitted, rows)[0])
    for op, gpus, nodes in (("all_reduce", 8, 1), ("all_gather", 4, 1), ("all_reduce", 32, 4)):
        for size in (3 << 19, 5 << 24):
            expected = costs.over_nodes(op, gpus, size, nodes).seconds
            assert CollectiveCosts(fitted).over_nodes(op, gpus, size, nodes).seconds == pytest.approx(
                expected, rel=0.05
            )
    with pytest.raises(UserError, match="no collective"):
        read_collectives(_too_small(tmp_path))


def _too_small(tmp_path: Path) -> Path:
    path = tmp_path / "small.csv"
    path.write_text("collective,gpus,nodes,bytes,duration_us\nall_reduce,8,1,16,1.0\n")
    return path


def test_transfers_share_the_nodes_network() -> None:
    cluster = presets.cluster("dgx-a100-80gb")
    costs = CollectiveCosts(cluster)
    alone, together = (costs.over_nodes("p2p", 2, 1 << 28, 2, sharers).seconds for sharers in (1, 8))
    assert together > alone
    halved = CollectiveCosts(replace(cluster, inter_node=replace(cluster.inter_node, oversubscription=2.0)))
    assert halved.over_nodes("p2p", 2, 1 << 28, 2, 8).seconds == pytest.approx(2 * together, rel=0.01)


def test_head_sizes_that_tensor_cores_do_not_take_are_slow() -> None:
    surface = DeviceSurface(
        presets.device("a100-sxm-80gb"), Surfaces.from_dict(presets.device_surfaces("a100-sxm-80gb"))
    )

    def attention(head_dim: int) -> float:
        return surface.seconds(
            Operator(
                "attention",
                "forward",
                batch=4,
                seq_q=2048,
                seq_kv=2048,
                heads=16,
                kv_heads=16,
                head_dim=head_dim,
                dtype="float16",
            )
        )

    assert attention(108) > 3 * attention(112)


def test_communication_beside_compute_is_slower_and_hides() -> None:
    """At 1.25 of its time beside compute; what outlasts the compute goes on undisturbed."""
    cluster = replace(presets.cluster("dgx-a100-80gb"), overlap_slowdown=1.25)
    costs = CostModel(cluster, OperatorCosts(DeviceSurface(cluster.device)), CollectiveCosts(cluster))

    def exposed(seconds: float, cover_s: float) -> float:
        return max(0.0, costs.beside(seconds, cover_s) - cover_s)

    assert exposed(1.0, 0.0) == 1.0
    assert exposed(1.0, 1.25) == 0.0
    assert exposed(1.0, 0.625) == pytest.approx(0.5)
    assert costs.beside(1.0, 2.0) == costs.slowed(1.0) == 1.25


def test_small_layers_are_bound_by_the_hosts_launches() -> None:
    cluster = presets.cluster("dgx-a100-80gb")
    surfaces = Surfaces.from_dict(presets.cluster_surfaces("dgx-a100-80gb"))
    small = Configuration(ModelSpec(2, 64, 4, 32, 128), ParallelSpec(), TrainSpec(1, 1))
    large = replace(small, model=ModelSpec(2, 8192, 64, 2048, 128))

    def further_layer(configuration: Configuration, launch_s: float) -> tuple[float, float]:
        """Seconds that a further layer adds to a chunk, and those of its operators."""
        device = DeviceSurface(cluster.device, replace(surfaces, launch_s=launch_s))
        costs = CostModel(cluster, OperatorCosts(device), CollectiveCosts(cluster))
        timer = ChunkTimer(configuration.shard, costs)
        one, two = (timer.times(ChunkSpec(((LayerKind(), count),))).forward_s for count in (1, 2))
        forward = timer.parts.layer(LayerKind()).forward
        return two - one, sum(costs.operator(item.operator).seconds for item in operators_of(forward))

    slow, computes = further_layer(small, 20e-6)
    assert slow == pytest.approx(2 * further_layer(small, 10e-6)[0])
    assert slow > 2 * computes
    # Once ahead, the host stays ahead of a large layer: only its first kernels in a pass wait to be launched.
    added, computes = further_layer(large, 10e-6)
    assert added == pytest.approx(computes, rel=1e-9)
    projector = Projector.modelled(cluster, replace(surfaces, launch_s=30e-6))
    bound, ahead = (projector.project(c).breakdown_s for c in (small, large))
    assert bound["host launches"] > bound["forward"] + bound["backward"]
    assert ahead["host launches"] < 1e-2 * ahead["forward"]
