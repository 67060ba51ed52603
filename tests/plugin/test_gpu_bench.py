"""The microbenchmarks on a CUDA GPU: what the simulated one in ``simulated_gpu.py`` cannot prove.

``pytest -m gpu``; needs torch with CUDA. What needs Transformer Engine or several GPUs is skipped without.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vtrain_sim.catalog import Catalog

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.version.cuda is None or not torch.cuda.is_available(), reason="no CUDA GPU"),
]
needs_engine = pytest.mark.skipif(
    importlib.util.find_spec("transformer_engine") is None, reason="Transformer Engine is not installed"
)
needs_8_bits = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9), reason="no 8-bit products"
)
SIZES = ("--hidden-size", "4096", "--num-attention-heads", "32", "--seq-length", "2048", "--vocab-size", "51200")
RANK = ("rank", "--world-size", "8", "--num-layers", "96", *SIZES, "--bf16", "--num-microbatches", "4")


def vtrain_profile(directory: Path, verb: str, *flags: str) -> Any:
    command = [sys.executable, "-W", "ignore", "-m", "vtrain_plugin.cli", verb, "--out", str(directory), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def measure(directory: Path, verb: str, *flags: str) -> Catalog:
    done = vtrain_profile(directory, verb, *flags)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    catalog = Catalog(directory / "c.duckdb")
    assert not catalog.add([str(directory)]).problems
    return catalog


def medians(catalog: Catalog, where: str) -> dict[tuple[str, str], float]:
    rows = catalog.sql(
        f"SELECT kind, phase, median(duration_ns) AS ns FROM operators WHERE {where} GROUP BY ALL"
    ).to_pylist()
    return {(row["kind"], row["phase"]): row["ns"] for row in rows}


# -- the queue ------------------------------------------------------------------------------


def device() -> Any:
    from vtrain_plugin.bench.device import CudaDevice

    return CudaDevice()


def test_the_device_is_held_as_long_as_asked() -> None:
    gpu = device()
    begin, end = gpu.queue.event(), gpu.queue.event()
    begin.record()
    gpu.queue.hold(20e6)
    end.record()
    end.synchronize()
    assert begin.elapsed_time(end) == pytest.approx(20, rel=0.2)


def test_a_small_kernel_is_timed_without_its_launch() -> None:
    gpu = device()
    x = torch.ones(1024, device="cuda")
    timings = gpu.repeat([lambda: x.add_(1)], 0.2, 5)
    assert not any(timing.host_bound for timing in timings)
    typical = sorted(timing.duration_ns for timing in timings)[len(timings) // 2]
    # A kernel of nothing takes 1 to 3 us, its launch from Python 4 us and more.
    assert typical < 4_000
    torch.cuda.synchronize()
    alone = gpu.time(lambda: x.add_(1))
    assert alone.host_bound
    assert alone.duration_ns > 1.5 * typical


def test_a_call_that_waits_for_the_device_is_flagged() -> None:
    gpu = device()
    x = torch.ones(1024, device="cuda")
    assert all(timing.host_bound for timing in gpu.repeat([lambda: x.sum().item()], 0.1, 3))


def test_inputs_come_from_memory_and_not_from_the_cache() -> None:
    from vtrain_plugin.bench.rotation import copies

    gpu = device()
    elements = gpu.cache_bytes // 16
    needed = copies(8 * elements, gpu.cache_bytes, gpu.free_bytes())
    assert needed.beyond_cache
    pairs = [[torch.ones(elements, device="cuda") for _ in range(2)] for _ in range(needed.count)]
    calls = [lambda pair=pair: torch.add(pair[0], 1, out=pair[1]) for pair in pairs]

    def typical(calls: list[Any]) -> int:
        durations = sorted(timing.duration_ns for timing in gpu.repeat(calls, 0.3, 5))
        return int(durations[len(durations) // 2])

    assert typical(calls) > 1.2 * typical(calls[:1])


# -- operators ------------------------------------------------------------------------------


def test_operators_are_timed_on_a_full_queue(tmp_path: Path) -> None:
    catalog = measure(tmp_path, "ops", *SIZES, "--all-tp", "1,8", "--seconds", "0.1")
    rows = catalog.sql("SELECT kind, phase, host_bound, flops, duration_ns, attributes FROM operators").to_pylist()
    bound = {(row["kind"], row["phase"]) for row in rows if row["host_bound"]}
    # The optimizer's step may count on the host.
    assert bound <= {("optimizer", "update")}
    assert all(json.loads(row["attributes"])["implementation"] for row in rows)
    products = [row for row in rows if row["kind"] == "gemm"]
    assert products
    assert all(0 < row["flops"] / (row["duration_ns"] / 1e9) < 2e15 for row in products)


def test_fused_functions_are_faster_than_separate_kernels(tmp_path: Path) -> None:
    pytest.importorskip("megatron.core")
    apart = ("--no-bias-gelu-fusion", "--no-bias-dropout-fusion", "--no-gradient-accumulation-fusion")
    for name, flags in (("fused", ()), ("apart", apart)):
        catalog = measure(
            tmp_path, "ops", *SIZES, "--seconds", "0.1", "--run-id", name, "--hidden-dropout", "0.1", *flags
        )
    fused, separate = (medians(catalog, f"run_id = '{name}'") for name in ("fused", "apart"))
    for kind in ("activation", "bias_dropout_add"):
        assert fused[kind, "forward"] < 0.9 * separate[kind, "forward"]
    attributes = catalog.sql(
        "SELECT DISTINCT run_id, kind, attributes FROM operators WHERE kind IN ('activation', 'bias_dropout_add')"
    ).to_pylist()
    for row in attributes:
        name = {"activation": "bias_activation_fusion"}.get(row["kind"], "bias_dropout_fusion")
        assert json.loads(row["attributes"])[name] is (row["run_id"] == "fused")


@needs_8_bits
def test_products_in_8_bits_are_faster(tmp_path: Path) -> None:
    for name, flags in (("wide", ()), ("narrow", ("--fp8-format", "hybrid"))):
        catalog = measure(tmp_path, "ops", *SIZES, "--seconds", "0.1", "--run-id", name, *flags)
    where = "kind = 'gemm' AND n = 16384 AND run_id ="
    wide, narrow = medians(catalog, f"{where} 'wide'"), medians(catalog, f"{where} 'narrow'")
    for phase in ("forward", "dgrad"):
        assert narrow["gemm", phase] < 0.8 * wide["gemm", phase]


@needs_engine
def test_grouped_experts_run_in_transformer_engine(tmp_path: Path) -> None:
    flags = ("--num-experts", "8", "--moe-grouped-gemm", "--moe-ffn-hidden-size", "1024", "--moe-permute-fusion")
    catalog = measure(tmp_path, "ops", *SIZES, *flags, "--swiglu", "--disable-bias-linear", "--seconds", "0.1")
    rows = catalog.sql(
        "SELECT DISTINCT kind, attributes FROM operators WHERE kind IN ('grouped_gemm', 'permute')"
    ).to_pylist()
    assert {row["kind"] for row in rows} == {"grouped_gemm", "permute"}
    assert {json.loads(row["attributes"])["implementation"] for row in rows} == {"transformer_engine"}


# -- a rank ---------------------------------------------------------------------------------


def test_the_memory_of_a_shard_is_foreseen(tmp_path: Path) -> None:
    from vtrain_plugin.bench.rank import parser
    from vtrain_plugin.bench.shard_memory import ShardMemory

    flags = (*RANK[1:], "--pipeline-model-parallel-size", "8", "--rank", "3", "--layers", "4")
    catalog = measure(tmp_path, *("rank", *flags), "--run-id", "r")
    ((peak,),) = [row.values() for row in catalog.sql("SELECT max(peak_allocated_bytes) FROM steps").to_pylist()]
    foreseen = ShardMemory.of(parser().parse_args(["--out", "x", "--run-id", "r", *flags])).total
    # An estimate from below: it must not refuse what ran.
    assert 0.5 * peak < foreseen <= 1.02 * peak
    run = catalog.show("r")["run"]
    assert (run["num_layers"], run["layers_built"]) == (96, 4)


def test_a_rank_at_real_sizes_is_launched_in_time(tmp_path: Path) -> None:
    done = vtrain_profile(tmp_path, *RANK, "--layers", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "waited for the host" not in done.stderr


def test_a_shard_larger_than_the_gpu_is_refused_beside_one_that_fits(tmp_path: Path) -> None:
    done = vtrain_profile(tmp_path, *RANK, "--all-tp", "1,8", "--layers", "64")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert any(line.startswith("not measured: tp 1, micro batch size 1: the shard needs") for line in lines)
    assert any("tp8" in line and line.startswith("wrote") for line in lines)


@needs_engine
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        pytest.param("fp8", ("--fp8-format", "hybrid"), marks=needs_8_bits),
        (
            "experts",
            (
                *("--num-experts", "8", "--expert-model-parallel-size", "4", "--moe-ffn-hidden-size", "2048"),
                *("--moe-grouped-gemm", "--moe-permute-fusion", "--swiglu", "--disable-bias-linear"),
            ),
        ),
        (
            "latent",
            (
                *("--multi-latent-attention", "--q-lora-rank", "512", "--kv-lora-rank", "256", "--qk-layernorm"),
                *("--normalization", "RMSNorm", "--swiglu", "--disable-bias-linear"),
            ),
        ),
    ],
)
def test_ranks_of_transformer_engine(tmp_path: Path, name: str, flags: tuple[str, ...]) -> None:
    catalog = measure(tmp_path, *RANK, "--layers", "2", "--run-id", name, *flags)
    row = catalog.show(name)["run"]
    assert row["transformer_impl"] == "transformer_engine"
    assert catalog.sql("SELECT * FROM operators WHERE kind = 'gemm' AND phase = 'backward'").num_rows > 0
    if name == "fp8":
        assert row["fp8"] == "hybrid"


# -- collectives ----------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available() or torch.cuda.device_count() < 2, reason="one GPU")
def test_groups_say_their_nodes(tmp_path: Path) -> None:
    catalog = measure(tmp_path, "collectives", "--sizes", "1048576,67108864", "--nproc-per-node", "2")
    rows = catalog.sql("SELECT DISTINCT op, nodes, ranks_per_node, host_bound FROM collectives").to_pylist()
    assert {(row["nodes"], row["ranks_per_node"]) for row in rows} == {(1, 2)}
    # Between calls each rank computes for longer than the host takes to launch the next.
    assert not any(row["host_bound"] for row in rows)
