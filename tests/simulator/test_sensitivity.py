"""What one change at a time would bring: each row is a projection, and the shares say what binds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vtrain as vt
from simulator.api.workplace import furnish
from vtrain_sim.commands.sim import app
from vtrain_sim.costs.measured_collectives import MeasuredCollectives
from vtrain_sim.decide.faster_machine import RESOURCES
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets
from vtrain_sim.simulate.projection import Projector

JOB = vt.job("gpt3-13b", cluster="dgx-a100-80gb", gpus=64, tp=8, sp=True, mbs=1, gbs=128, distributed_optimizer=True)
FLAGS = ["--cluster", "dgx-a100-80gb", "--model", "gpt3-13b", "--num-gpus", "64", "--micro-batch-size", "1"]
FLAGS += ["--global-batch-size", "128", "--tensor-model-parallel-size", "8", "--sequence-parallel"]
# A layer of experts keeps the host busy, whatever there is to multiply.
HOST_BOUND = vt.job("mixtral-8x7b", cluster="dgx-h100", gpus=8, ep=8, mbs=1, gbs=64, seq_length=128)
BY_NAME = {resource.name: resource for resource in RESOURCES}


def effects(job: vt.Job) -> dict[str, vt.Effect]:
    return {effect.name: effect for effect in vt.explain(job).effects}


def test_what_changes_nothing_is_the_same() -> None:
    job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, tp=2, mbs=1, gbs=16)
    lines = str(vt.render(vt.explain(job), "table")).splitlines()
    unchanged = [line for line in lines if line.startswith("network between nodes")]
    assert len(unchanged) == 1
    assert "the same" in unchanged[0]
    assert "0.0%" not in unchanged[0]


def test_every_change_of_the_configuration_is_a_projection_of_its_own() -> None:
    found = effects(JOB)
    base = vt.project(JOB)
    changes: dict[str, dict[str, object]] = {
        "micro batch 2": {"mbs": 2},
        "tp 4": {"tp": 4},
        "pp 2": {"pp": 2},
        "cp 2": {"cp": 2},
        "full recomputation": {"recompute": "full"},
        "selective recomputation": {"recompute": "selective"},
    }
    for name, values in changes.items():
        projection = vt.project(JOB.with_(**values))  # type: ignore[arg-type]
        assert found[name].step_s == pytest.approx(projection.iteration_time_s, rel=1e-12), name
        assert found[name].change_s == pytest.approx(projection.iteration_time_s - base.iteration_time_s)
        assert found[name].peak_bytes == projection.memory.worst.peak_bytes
        assert found[name].change_bytes == projection.memory.worst.peak_bytes - base.memory.worst.peak_bytes
        assert found[name].fits == projection.memory.fits
    # Nothing halves what is 1, and no change is what the job has already.
    assert not {"micro batch 1", "tp 8", "pp 1", "cp 1", "no recomputation", "ep 2"} & found.keys()
    assert "does not divide" in found["tp 16"].reason
    assert found["tp 16"].step_s is None


def test_a_faster_resource_is_a_projection_on_another_machine() -> None:
    found = effects(JOB)
    cluster = presets.cluster("dgx-a100-80gb")
    surfaces = JOB.machine.surfaces
    device = replace(cluster.device, memory_bandwidth=cluster.device.memory_bandwidth * 1.1)
    level = replace(cluster.intra_node, copy_bandwidth=cluster.intra_node.copy_bandwidth * 1.1)
    outside = replace(cluster.inter_node, copy_bandwidth=cluster.inter_node.copy_bandwidth * 1.1)
    faster = replace(cluster, device=device, intra_node=level, inter_node=outside)
    expected = Projector.modelled(faster, surfaces).project(JOB.configuration).iteration_time_s
    assert found["memory bandwidth +10%"].step_s == pytest.approx(expected, rel=1e-12)
    names = ("bandwidth", "p2p_bandwidth", "node_bandwidth", "p2p_node_bandwidth", "exchange_bandwidth")
    network = {name: getattr(cluster.inter_node, name) * 1.1 for name in names}
    faster = replace(cluster, inter_node=replace(cluster.inter_node, **network))
    expected = Projector.modelled(faster, surfaces).project(JOB.configuration).iteration_time_s
    assert found["network between nodes +10%"].step_s == pytest.approx(expected, rel=1e-12)
    own = HOST_BOUND.machine.surfaces
    halves = {
        name: {kind: seconds / 2 for kind, seconds in getattr(own, name).items()} for name in ("host_s", "host_each_s")
    }
    faster_host = Projector.modelled(HOST_BOUND.cluster, replace(own, launch_s=own.launch_s / 2, **halves))
    expected = faster_host.project(HOST_BOUND.configuration).iteration_time_s
    assert effects(HOST_BOUND)["kernel launches, half the time"].step_s == pytest.approx(expected, rel=1e-12)
    assert expected < 0.7 * vt.project(HOST_BOUND).iteration_time_s


def test_the_shortest_step_comes_first_and_what_cannot_be_made_last() -> None:
    steps = [effect.step_s for effect in vt.explain(JOB).effects]
    made = [step for step in steps if step is not None]
    assert steps == [*sorted(made), *[None] * (len(steps) - len(made))]
    assert None in steps


@pytest.mark.parametrize(
    ("job", "most"),
    [
        (JOB.with_(tp=1, pp=8, sequence_parallel=False, gbs=1024), "products"),
        (HOST_BOUND, "host"),
        (vt.job("gpt3-13b", cluster="dgx-a100-80gb", gpus=16, tp=1, dp=16, mbs=1, gbs=16), "between_nodes"),
        (vt.job("gpt3-13b", cluster="dgx-a100-80gb", gpus=2, tp=2, mbs=1, gbs=1, seq_length=32), "memory_bandwidth"),
    ],
)
def test_shares_say_what_binds(job: vt.Job, most: str) -> None:
    shares = vt.explain(job).shares
    assert max(shares, key=lambda name: shares[name]) == most
    assert all(share >= 0 for share in shares.values())
    # To first order: what is the larger of two changes sides on the way.
    assert sum(shares.values()) < 1.05


def test_the_products_share_is_that_of_the_breakdown() -> None:
    job = JOB.with_(tp=1, pp=8, sequence_parallel=False, gbs=1024)
    causes = vt.compare(job, job).a.causes
    products = (causes["matrix products"] + causes["attention"]) / vt.project(job).iteration_time_s
    # The bubble is made of the same products, so that it goes with them.
    bubble = causes["pipeline bubble and transfers"] / vt.project(job).iteration_time_s
    assert 0.9 * products < vt.explain(job).shares["products"] < products + bubble + 0.02


def test_experts_and_interleaving_have_their_own_changes() -> None:
    moe = vt.job("mixtral-8x7b", cluster="dgx-h100", gpus=64, tp=2, pp=2, vpp=2, ep=8, sp=True, mbs=1, gbs=64)
    found = effects(moe)
    assert found["ep 4"].step_s == pytest.approx(vt.project(moe.with_(ep=4)).iteration_time_s)
    # Sequence parallelism and chunks go with the ranks that they need.
    assert found["tp 1"].step_s == pytest.approx(vt.project(moe.with_(tp=1, sp=False)).iteration_time_s)
    assert found["pp 1"].step_s == pytest.approx(vt.project(moe.with_(pp=1, vpp=1)).iteration_time_s)


def test_the_number_of_gpus_stays_where_it_follows_from_the_layout() -> None:
    job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", tp=2, dp=4, mbs=1, gbs=16)
    assert job.fixed_gpus == 0
    assert effects(job)["tp 4"].step_s == pytest.approx(vt.project(job.with_(gpus=8, tp=4)).iteration_time_s)


@pytest.mark.parametrize(
    ("mbs", "gbs", "others"), [(1, 16, {2}), (2, 12, {1, 3}), (4, 4, {2}), (8, 24, {6, 12}), (1, 1, set()), (1, 3, {3})]
)
def test_neighbours_of_a_micro_batch_divide_the_batch(mbs: int, gbs: int, others: set[int]) -> None:
    job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=1, mbs=mbs, gbs=gbs)
    assert {f"micro batch {size}" for size in others} == {name for name in effects(job) if name.startswith("micro")}


def test_what_does_not_fit_says_what_would() -> None:
    job = vt.job("llama2-70b", cluster="dgx-a100-80gb", gpus=64, tp=4, pp=4, mbs=1, gbs=64, sp=True)
    sensitivity = vt.explain(job)
    assert not sensitivity.projection.memory.fits
    fitting = [effect for effect in sensitivity.effects if effect.of == "configuration" and effect.fits]
    assert fitting
    assert f"it does not fit: {fitting[0].name} would" in sensitivity.sentences


def test_measured_times_are_scaled_as_the_devices_estimates_are(tmp_path: Path) -> None:
    furnish(tmp_path)
    sensitivity = vt.explain(vt.job.from_run(tmp_path / "vtrain.duckdb", "base"))
    found = {effect.name: effect for effect in sensitivity.effects}
    # Both bind some operators; together not more than there are.
    assert sensitivity.shares["products"] > 0.05
    assert sensitivity.shares["memory_bandwidth"] > 0.05
    assert sensitivity.shares["products"] + sensitivity.shares["memory_bandwidth"] < 1.05
    assert "launches" in found["kernel launches, half the time"].reason
    assert "network" in found["network between nodes +10%"].reason


def test_measured_transfers_keep_their_latency() -> None:
    measured = MeasuredCollectives()
    measured.add("all_reduce", 4, 1024, 20e-6, 0.01)
    measured.add("all_reduce", 4, 1 << 30, 1.1e-2 + 20e-6, 0.01)
    projector = Projector.modelled(presets.cluster("dgx-a100-80gb"), JOB.machine.surfaces)
    projector.evaluator.collectives.measured = measured
    points = BY_NAME["inside_node"].of(projector).evaluator.collectives.measured.points["all_reduce", 4]
    assert [point.seconds for point in points] == pytest.approx([20e-6, 1e-2 + 20e-6])
    # Other resources leave them as they are.
    assert BY_NAME["products"].of(projector).evaluator.collectives.measured is measured


def test_the_command_prints_draws_and_writes(tmp_path: Path) -> None:
    picture, table = tmp_path / "e.png", tmp_path / "e.csv"
    page = tmp_path / "e.html"
    options = ["--plot", str(picture), "--table", str(table), "--report", str(page)]
    result = CliRunner().invoke(app, ["explain", *FLAGS, *options])
    assert result.exit_code == 0, result.output
    lines = result.stdout[result.stdout.index("one change at a time") :].splitlines()
    assert max(len(line) for line in lines if not line.startswith("tp 16")) <= 80
    assert "what binds the step: " in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "What binds the step: " in page.read_text()
    assert table.read_text().startswith("name,of,reason,step_s,change_s,change,peak_bytes,change_bytes,fits")
    document = json.loads(CliRunner().invoke(app, ["explain", *FLAGS, "--json"]).stdout)
    assert document["schema"] == "vtrain.sensitivity/1"
    assert document["effects"][0]["change_s"] < 0
    assert 0 < sum(document["shares"].values()) <= 1.05


def test_what_cannot_be_projected_is_a_sentence() -> None:
    with pytest.raises(UserError, match="no job"):
        vt.explain("gpt3-13b")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="nothing to project on"):
        CliRunner().invoke(app, ["explain", "--model", "gpt3-13b"], catch_exceptions=False)
