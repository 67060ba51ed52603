"""``vtrain-sim plan --catalog --run``: a captured run is planned with its times, and its own layout is ranked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vtrain as vt
from simulator.api.workplace import furnish
from vtrain_sim.commands.sim import app
from vtrain_sim.errors import UserError


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog with a captured run of one process, and the network between two."""
    place = tmp_path_factory.mktemp("runs")
    furnish(place)
    return place / "vtrain.duckdb"


def test_a_captured_run_is_planned_with_its_times_and_ranked(runs: Path) -> None:
    command = ["plan", "--catalog", str(runs), "--run", "base", "--top", "100"]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    own, plans = document["own"], document["plans"]
    job = vt.job.from_run(runs, "base")
    assert own["iteration_time_s"] == pytest.approx(vt.project(job).iteration_time_s)
    assert (own["name"], own["verdict"], own["num_gpus"], own["mbs"]) == ("run base", "fits", 1, 1)
    faster = sum(p["iteration_time_s"] < own["iteration_time_s"] * (1 - 1e-9) for p in plans)
    assert own["rank"] == faster + 1 > 1
    assert own["changes_to_best"]["--micro-batch-size"] == ["1", str(plans[0]["mbs"])]
    # Shapes of a micro batch that did not run are estimated, those of the run are measured.
    assert vt.plan(job, mbs=1).plans[0].projection.provenance["measured"] > 0.5
    table = CliRunner().invoke(app, command).stdout
    assert f"it is number {own['rank']} of {document['candidates']} candidates" in table
    assert f"--micro-batch-size {plans[0]['mbs']} (now 1)" in table


def test_a_run_s_layout_is_not_ranked_beside_other_jobs(runs: Path) -> None:
    job = vt.job.from_run(runs, "base")
    other = vt.plan(job, num_gpus=2).own
    assert other is not None
    assert other.rank is None
    assert "number of GPUs (1)" in other.verdict
    batch = vt.plan(job, global_batch_size=8).own
    assert batch is not None
    assert batch.rank is None
    assert "global batch (4)" in batch.verdict
    first = vt.plan(job, mbs=1).own
    assert first is not None
    assert first.rank == 1
    assert vt.plan("gpt3-1.3b", cluster="dgx-a100-80gb", num_gpus=8, global_batch_size=32).own is None


def test_a_layout_that_never_ends_is_not_the_best() -> None:
    # One of 1,024 GPUs fails before any restart is over; of two, not.
    job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=1024, tp=8, mbs=1, gbs=1024)
    result = vt.plan(job, num_gpus=(2, 1024), train_tokens=1e9, gpu_mtbf_hours=0.3)
    assert result.own is not None
    assert result.plans[0].days < float("inf")
    assert result.own.plan.days == float("inf")
    assert result.own.rank is None
    assert result.own.verdict == "after the deadline"


def test_a_page_of_a_plan_draws_the_step_on_the_run_s_machine(runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    command = ["plan", "--catalog", str(runs), "--run", "base", "--report", str(page)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert '"draw":"gantt"' in page.read_text().replace(" ", "")


def test_flags_change_the_run_that_is_planned(runs: Path) -> None:
    command = [
        "plan",
        "--catalog",
        str(runs),
        "--run",
        "base",
        "--num-layers",
        "6",
        "--micro-batch-size",
        "2",
        "--json",
    ]
    document = json.loads(CliRunner().invoke(app, command).stdout)
    assert {p["mbs"] for p in document["plans"]} == {2}
    args = document["own"]["megatron_args"]
    assert args[args.index("--num-layers") + 1] == "6"
    assert document["own"]["mbs"] == 1


def test_a_run_s_times_are_used_on_a_cluster_of_its_device(runs: Path, tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(
        "name: lab\ngpus_per_node: 2\nprice_per_gpu_hour: 1.0\nnvlink_gb_per_s: 10\nnics_per_node: 1\n"
        "nic_gbit_per_s: 10\n"
        "device:\n  name: test processor\n  memory_bandwidth: 2.0e+10\n  memory_bytes: 8000000000\n"
        "  peak_flops: {float32: 2.0e+11}\n"
    )
    command = ["plan", "--catalog", str(runs), "--run", "base", "--cluster", str(cluster), "--num-gpus", "1", "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, (done.output, done.exception)
    document = json.loads(done.stdout)
    assert document["cluster"] == "lab"
    assert document["own"]["iteration_time_s"] == pytest.approx(
        vt.project(vt.job.from_run(runs, "base", cluster=cluster)).iteration_time_s
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--run", "base"), "--catalog"),
        (("--catalog", "CATALOG"), "needs --run"),
        (("--catalog", "CATALOG", "--run", "bas"), "no run 'bas'"),
        (("--catalog", "CATALOG", "--run", "base", "--model", "gpt3-1.3b"), "its own model"),
        (("--catalog", "CATALOG", "--run", "base", "--cluster", "dgx-h100"), "measurements of one device"),
        (("--num-gpus", "8"), "--catalog and --run"),
    ],
)
def test_a_run_that_cannot_be_planned_is_a_sentence(runs: Path, words: tuple[str, ...], says: str) -> None:
    given_words = [str(runs) if word == "CATALOG" else word for word in words]
    with pytest.raises(UserError, match=says):
        CliRunner().invoke(app, ["plan", *given_words], catch_exceptions=False)
