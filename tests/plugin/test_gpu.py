"""The plugin on a CUDA GPU: Megatron-Core GPT at real sizes, sharded as for tp 1 to 8 on one GPU.

``pytest -m gpu``; needs torch with CUDA. A fake process group plays the other ranks.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vtrain_sim.catalog import Catalog
from vtrain_sim.inputs.captured_run import configuration_from_run
from vtrain_sim.model import Compute, build_step

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.version.cuda is None or not torch.cuda.is_available(), reason="no CUDA GPU"),
]
MODEL = (
    "--num-layers",
    "24",
    "--layers",
    "2",
    "--hidden-size",
    "4096",
    "--num-attention-heads",
    "32",
    "--seq-length",
    "2048",
    "--vocab-size",
    "51200",
    "--bf16",
    "--num-microbatches",
    "4",
)


def play(directory: Path, tp: int, *flags: str) -> Catalog:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "vtrain_plugin.cli",
            "rank",
            "--out",
            str(directory),
            "--run-id",
            f"tp{tp}",
            "--world-size",
            "8",
            "--tensor-model-parallel-size",
            str(tp),
            *MODEL,
            *flags,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    catalog = Catalog(directory / "c.duckdb")
    assert not catalog.add([str(directory)]).problems
    return catalog


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_cuda_events_time_every_operator_of_the_shard(tmp_path: Path, tp: int) -> None:
    catalog = play(tmp_path, tp, *(["--sequence-parallel"] if tp > 1 else []))
    row = catalog.show(f"tp{tp}")["run"]
    assert row["clock_source"] == "cuda_event"
    stage = build_step(configuration_from_run(row)).stages[0]
    expected = {
        (i.operator.kind, i.operator.m, i.operator.n, i.operator.k)
        for chunk in stage.chunks
        for part, _ in chunk
        for i in part.forward
        if isinstance(i, Compute) and i.operator.kind == "gemm"
    }
    rows = catalog.sql(
        "SELECT kind, m, n, k, median(duration_ns) AS ns, any_value(flops) AS flops FROM operators "
        "WHERE kind = 'gemm' AND phase = 'forward' GROUP BY ALL"
    ).to_pylist()
    assert {(r["kind"], r["m"], r["n"], r["k"]) for r in rows} == expected
    peak = 2e15  # FLOP/s, beyond any single GPU of today in bf16
    assert all(0 < r["flops"] / (r["ns"] / 1e9) < peak for r in rows)


def test_parts_add_up_to_the_step(tmp_path: Path) -> None:
    for row in play(tmp_path, 1).sql("SELECT * FROM step_breakdown").to_pylist():
        assert row["other_ns"] >= -0.03 * row["duration_ns"]


def test_kernels_carry_correlation_and_operator(tmp_path: Path) -> None:
    catalog = play(tmp_path, 1, "--kernels")
    rows = catalog.sql("SELECT name, stream, correlation, operator, duration_ns FROM kernels").to_pylist()
    assert rows
    assert all(r["duration_ns"] > 0 and r["correlation"] is not None for r in rows)
    assert sum(r["operator"] is not None for r in rows) > 0.8 * len(rows)
    gemms = catalog.sql("SELECT count(*) AS n FROM operators WHERE source = 'kineto' AND kind = 'gemm'").to_pylist()
    assert gemms[0]["n"] > 0


def test_nccl_kernels_carry_their_metadata(tmp_path: Path) -> None:
    """World of one over real NCCL: the kernels table and the collectives agree on what ran."""
    script = tmp_path / "nccl.py"
    script.write_text(
        "import torch, torch.distributed as dist\n"
        "from torch.profiler import profile, ProfilerActivity\n"
        "dist.init_process_group('nccl', store=dist.HashStore(), rank=0, world_size=1)\n"
        "x = torch.ones(1 << 20, device='cuda')\n"
        "dist.all_reduce(x); torch.cuda.synchronize()\n"
        "with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as p:\n"
        "    dist.all_reduce(x); torch.cuda.synchronize()\n"
        f"p.export_chrome_trace('{tmp_path}/nccl.json')\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([str(tmp_path / "nccl.json")])
    # NCCL may answer a world of one with a copy, which is no collective kernel.
    collectives = catalog.sql("SELECT op, bytes FROM collectives").to_pylist()
    assert all(c["op"] == "all_reduce" and c["bytes"] == 4 << 20 for c in collectives)


def test_nvtx_ranges_do_not_disturb(tmp_path: Path) -> None:
    pytest.importorskip("nvtx")
    assert play(tmp_path, 1).sql("SELECT * FROM spans").num_rows > 0
