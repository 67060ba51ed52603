"""``vtrain-profile ops``, ``collectives`` and ``rank`` on this machine's CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import run_python
from vtrain_plugin.bench.rank import parser
from vtrain_plugin.bench.shard_parameters import ShardParameters
from vtrain_sim.catalog import Catalog
from vtrain_sim.costs.measured_collectives import load_collectives
from vtrain_sim.inputs.captured_run import configuration_from_run
from vtrain_sim.model import Compute, build_step

pytestmark = pytest.mark.slow
MODEL = (
    "--num-layers",
    "4",
    "--hidden-size",
    "64",
    "--num-attention-heads",
    "8",
    "--seq-length",
    "32",
    "--vocab-size",
    "512",
)
GATED = ("--swiglu", "--disable-bias-linear")
TESTS = str(Path(__file__).resolve().parents[1])


def catalog_of(directory: Path) -> Catalog:
    catalog = Catalog(directory / "c.duckdb")
    assert not catalog.add([str(directory)]).problems
    assert not catalog.check()
    return catalog


def test_ops(tmp_path: Path) -> None:
    run_python(
        [
            "-m",
            "vtrain_plugin.cli",
            "ops",
            "--out",
            str(tmp_path),
            "--run-id",
            "ops",
            "--hidden-size",
            "64",
            "--num-attention-heads",
            "8",
            "--seq-length",
            "32",
            "--vocab-size",
            "512",
            "--all-tp",
            "1,2",
            "--micro-batch-sizes",
            "1,2",
            "--seconds",
            "0",
            "--no-pin",
        ]
    )
    rows = catalog_of(tmp_path).sql("SELECT DISTINCT kind, phase FROM operator_times").to_pylist()
    found = {(r["kind"], r["phase"]) for r in rows}
    assert {
        ("gemm", "forward"),
        ("gemm", "dgrad"),
        ("gemm", "wgrad"),
        ("attention", "backward"),
        ("norm", "backward"),
        ("activation", "forward"),
        ("loss", "backward"),
        ("optimizer", "update"),
    } <= found


def test_collectives(tmp_path: Path) -> None:
    run_python(
        [
            "-m",
            "vtrain_plugin.cli",
            "collectives",
            "--out",
            str(tmp_path),
            "--run-id",
            "c",
            "--sizes",
            "4096,65536",
            "--repeats",
            "3",
            "--no-pin",
        ]
    )
    with catalog_of(tmp_path).reading() as connection:
        measured = load_collectives(connection, ["c"])
        names = {r[0] for r in connection.execute("SELECT DISTINCT name FROM operators").fetchall()}
    assert names == {"reference_alone", "reference_together"}
    for op in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "p2p"):
        assert [p.nbytes for p in measured.points[op, 2]] == [4096, 65536], op


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        (
            "tp8-pp2",
            (
                "--world-size",
                "16",
                "--rank",
                "9",
                "--tensor-model-parallel-size",
                "8",
                "--pipeline-model-parallel-size",
                "2",
                "--sequence-parallel",
            ),
        ),
        (
            "rank-5000",
            (
                "--world-size",
                "16384",
                "--rank",
                "5000",
                "--tensor-model-parallel-size",
                "2",
                "--pipeline-model-parallel-size",
                "4",
                "--use-distributed-optimizer",
            ),
        ),
        (
            "tp4-gqa",
            (
                "--world-size",
                "4",
                "--tensor-model-parallel-size",
                "4",
                "--num-query-groups",
                "4",
                "--swiglu",
                "--disable-bias-linear",
                "--normalization",
                "RMSNorm",
            ),
        ),
    ],
)
def test_one_process_plays_a_rank_of_a_large_world(tmp_path: Path, name: str, flags: tuple[str, ...]) -> None:
    """The shard shapes of Megatron's own modules are those of the simulator's program."""
    run_python(
        [
            "-m",
            "vtrain_plugin.cli",
            "rank",
            "--out",
            str(tmp_path),
            "--run-id",
            name,
            *flags,
            *MODEL,
            "--prelude",
            "support.cpu_shims",
            "--warmup",
            "1",
            "--steps",
            "1",
        ],
        env={"PYTHONPATH": TESTS},
    )
    catalog = catalog_of(tmp_path)
    row = catalog.show(name)["run"]
    assert row["source"] == "rank"
    step = build_step(configuration_from_run(row))
    rank = catalog.show(name)["ranks"][0]
    stage = step.stages[rank["pp_rank"]]
    assert rank["parameters"] == stage.parameters
    expected = {
        (i.operator.kind, i.operator.phase, *i.operator.dims)
        for chunk in stage.chunks
        for part, _ in chunk
        for i in (*part.forward, *part.backward)
        if isinstance(i, Compute) and i.operator.kind not in ("microbatch", "grad_accumulate")
    }
    found = {
        tuple(r.values())
        for r in catalog.sql(
            "SELECT DISTINCT kind, phase, coalesce(m, 0) AS m, coalesce(n, 0) AS n, coalesce(k, 0) AS k, batch, "
            "coalesce(seq_q, 0) AS q, coalesce(seq_kv, 0) AS kv, coalesce(heads, 0) AS h, coalesce(kv_heads, 0) AS kh, "
            "coalesce(head_dim, 0) AS d FROM operators WHERE phase IN ('forward', 'backward') AND kind <> 'microbatch'"
        ).to_pylist()
    }
    assert found == expected


@pytest.mark.parametrize(
    ("name", "flags", "kinds"),
    [
        (
            "experts",
            ("--num-experts", "8", "--moe-ffn-hidden-size", "48", "--expert-model-parallel-size", "4", *GATED),
            {"router", "permute", "gemm", "attention"},
        ),
        (
            "latent",
            (
                "--multi-latent-attention",
                *("--q-lora-rank", "24", "--kv-lora-rank", "16", "--qk-head-dim", "8"),
                *("--qk-pos-emb-head-dim", "4", "--v-head-dim", "8", *GATED),
            ),
            {"gemm", "attention", "activation"},
        ),
    ],
)
def test_experts_and_latent_attention_are_played(
    tmp_path: Path, name: str, flags: tuple[str, ...], kinds: set[str]
) -> None:
    prelude = "support.latent_shims" if name == "latent" else "support.cpu_shims"
    sizes = ("--world-size", "8", "--rank", "3", *flags, *MODEL, "--warmup", "1", "--steps", "1")
    run_python(
        [
            *("-m", "vtrain_plugin.cli", "rank", "--out", str(tmp_path), "--run-id", name),
            *(*sizes, "--prelude", prelude),
        ],
        env={"PYTHONPATH": TESTS},
    )
    catalog = catalog_of(tmp_path)
    shown = catalog.show(name)
    counted = ShardParameters.of(parser().parse_args(["--out", "x", "--run-id", name, *sizes]))
    assert shown["ranks"][0]["parameters"] == counted.total
    found = {r["kind"] for r in catalog.sql("SELECT DISTINCT kind FROM operators WHERE phase = 'backward'").to_pylist()}
    assert kinds <= found


def test_several_sizes_make_a_run_each(tmp_path: Path) -> None:
    run_python(
        [
            "-m",
            "vtrain_plugin.cli",
            "rank",
            "--out",
            str(tmp_path),
            "--run-id",
            "r",
            "--world-size",
            "4",
            "--all-tp",
            "1,2",
            *MODEL,
            "--prelude",
            "support.cpu_shims",
            "--warmup",
            "0",
            "--steps",
            "1",
        ],
        env={"PYTHONPATH": TESTS},
    )
    assert {r["run_id"] for r in catalog_of(tmp_path).runs()} == {"r-tp1-mbs1", "r-tp2-mbs1"}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["rank", "--out", "x", "--world-size", "5", "--tensor-model-parallel-size", "2", *MODEL], "--world-size"),
        (["rank", "--out", "x", "--world-size", "4", "--rank", "4", *MODEL], "--rank"),
        (["rank", "--out", "x", "--world-size", "4", "--all-tp", "a", *MODEL], "--all-tp"),
        (["rank", "--out", "x", "--world-size", "4"], "--num-layers"),
        (["collectives", "--out", "x", "--ops", "all_reduze"], "all_reduze"),
        (["collectives", "--out", "x", "--sizes", "1k"], "--sizes"),
        (["collectives", "--out", "x", "--nproc-per-node", "1"], "--nproc-per-node"),
        (
            ["ops", "--out", "x", "--hidden-size", "65", "--num-attention-heads", "8", "--seq-length", "32"],
            "--hidden-size",
        ),
        (["run", "--out", "x", "--steps", "0", "--", "true"], "steps"),
        (["run", "--out", "x", "--", "no-such-command"], "no-such-command"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], word: str) -> None:
    done = run_python(["-m", "vtrain_plugin.cli", *arguments], check=False)
    assert done.returncode == 2
    message = [line for line in done.stderr.splitlines() if line.startswith("vtrain-profile:")]
    assert len(message) == 1
    assert word in message[0]
    assert "Traceback" not in done.stderr


def test_without_torch_the_command_says_where_to_run_it(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch', name='torch')")
    done = run_python(
        ["-m", "vtrain_plugin.cli", "collectives", "--out", str(tmp_path)],
        env={"PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("vtrain-profile: torch is not installed here")
