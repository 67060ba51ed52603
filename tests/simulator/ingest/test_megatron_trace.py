"""Real steps of Megatron-Core on CPU under torch.profiler: the trace holds the simulator's program."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from conftest import SCRIPT, SMALL, run_python
from vtrain_sim.catalog import Catalog
from vtrain_sim.costs import CollectiveCosts, OperatorCosts
from vtrain_sim.costs.measured import load_operators
from vtrain_sim.costs.surfaces import DeviceSurface, Surfaces
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.model import build_step, operators_of
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import ClusterSpec, DeviceSpec, NetworkLevel
from vtrain_sim.specs.config import Configuration
from vtrain_sim.validate.captured import compare

pytestmark = pytest.mark.slow
LAYOUTS = {
    "plain": (1, (), ()),
    "gated": (
        1,
        (
            "--swiglu",
            "--normalization",
            "RMSNorm",
            "--disable-bias-linear",
            "--num-query-groups",
            "2",
            "--untie-embeddings-and-output-weights",
        ),
        (
            "--swiglu",
            "--normalization",
            "RMSNorm",
            "--disable-bias-linear",
            "--group-query-attention",
            "--num-query-groups",
            "2",
            "--untie-embeddings-and-output-weights",
            "--ffn-hidden-size",
            "256",
        ),
    ),
    "tp2-recompute": (
        2,
        ("--tensor-model-parallel-size", "2", "--recompute-full"),
        (
            "--tensor-model-parallel-size",
            "2",
            "--recompute-granularity",
            "full",
            "--recompute-method",
            "uniform",
            "--recompute-num-layers",
            "1",
        ),
    ),
    "pp2": (2, ("--pipeline-model-parallel-size", "2"), ("--pipeline-model-parallel-size", "2")),
}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory):
    made: dict[str, tuple[Catalog, Configuration]] = {}

    def make(name: str) -> tuple[Catalog, Configuration]:
        if name not in made:
            processes, flags, megatron = LAYOUTS[name]
            folder = tmp_path_factory.mktemp(name)
            (folder / name).mkdir()
            run_python([str(SCRIPT), *SMALL, *flags, "--torch-profile", str(folder / name)], processes)
            catalog = Catalog(folder / "c.duckdb")
            # One rank's file is named after the rank, not the run.
            catalog.add([str(folder / name)], run_id=name, device="a processor")
            sizes = [f for f in SMALL if f != "--train-iters"][:-1]
            words = [
                "--micro-batch-size",
                "1",
                "--make-vocab-size-divisible-by",
                "1",
                "--position-embedding-type",
                "rope",
                "--fp32",
            ]
            made[name] = catalog, configuration_from_flags([*sizes, *words, *megatron], None, processes)
        return made[name]

    return make


def projector(catalog: Catalog, run_id: str) -> Projector:
    """A machine that is known from the trace alone, besides round numbers for what the trace has not."""
    device = DeviceSpec("a processor", {"float32": 50e9}, 10e9, 8 << 30)
    network = NetworkLevel("loopback", 1e9, 1e-4, p2p_bandwidth=1e9)
    cluster = ClusterSpec("test", device, 2, network, network)
    with catalog.reading() as connection:
        measured = load_operators(connection, [run_id])
    return Projector(cluster, OperatorCosts(DeviceSurface(device, Surfaces()), measured), CollectiveCosts(cluster))


@pytest.mark.parametrize("name", LAYOUTS)
def test_products_of_the_trace_are_those_of_the_program(traced, name: str) -> None:
    """Every product of every rank: phase, sizes and calls, gradients told apart, recomputation included."""
    catalog, configuration = traced(name)
    rows = catalog.sql(
        f"SELECT rank, phase, m, n, k, count(*) AS calls FROM operators WHERE run_id = '{name}' AND kind = 'gemm' "
        "AND flops IS NOT NULL AND batch = 1 AND step >= 0 GROUP BY ALL"
    ).to_pylist()
    steps = catalog.sql("SELECT count(DISTINCT step) AS n FROM steps").to_pylist()[0]["n"]
    assert steps == 2
    for stage in build_step(configuration).stages:
        expected: Counter[tuple[str, int, int, int]] = Counter()
        for chunk in stage.chunks:
            for program, count in chunk:
                for item in operators_of((*program.forward, *program.backward, *program.weight)):
                    if item.operator.kind == "gemm":
                        o = item.operator
                        for phase in ("dgrad", "wgrad") if o.phase == "backward" else (o.phase,):
                            expected[phase, o.m, o.n, o.k] += count * configuration.num_microbatches * steps
        per_stage = configuration.parallel.world_size // configuration.parallel.pp
        for rank in range(stage.stage * per_stage, (stage.stage + 1) * per_stage):
            found = {(r["phase"], r["m"], r["n"], r["k"]): r["calls"] for r in rows if r["rank"] == rank}
            assert found == dict(expected), rank


@pytest.mark.parametrize("name", ["plain", "tp2-recompute"])
def test_layers_are_compared_forward_and_backward(traced, name: str) -> None:
    catalog, configuration = traced(name)
    found = compare(catalog, name, projector(catalog, name), configuration)
    parts = {(p.part, p.direction): p for p in found.parts}
    for layer in (1, 2, 3, 4):
        for direction in ("forward", "backward"):
            row = parts[f"layer {layer}", direction]
            assert row.captured_s
            assert row.simulated_s
    assert parts["optimizer", "once per step"].captured_s
    gemms = [o for o in found.operators if o.operator.kind == "gemm"]
    assert gemms
    assert all(o.captured_calls == o.simulated_calls and o.provenance == "measured" for o in gemms)
    assert not any("products are in" in r for r in found.remarks)


def test_communication_of_two_ranks(traced) -> None:
    catalog, _ = traced("tp2-recompute")
    rows = catalog.sql(
        "SELECT rank, op, bytes, dtype, count(*) AS calls FROM collectives WHERE bytes = 32 * 64 * 4 GROUP BY ALL ORDER BY rank"
    ).to_pylist()
    # Activations of 32 tokens: two a layer forward and recomputed, two backward, and those of the embedding and the head.
    assert [(r["rank"], r["op"], r["dtype"]) for r in rows] == [
        (0, "all_reduce", "float32"),
        (1, "all_reduce", "float32"),
    ]
    assert rows[0]["calls"] == rows[1]["calls"] >= 2 * 4 * 4 * 6


def test_the_report_names_what_is_there(traced) -> None:
    catalog, _ = traced("plain")
    notes = {n["reason"]: n["count"] for n in catalog.show("plain")["notes"]}
    assert notes["training steps"] == 2
    assert notes["with a shape that says what they compute"] > 100
    assert not any("damaged" in reason or "negative" in reason for reason in notes)
    assert Path(catalog.path).exists()
