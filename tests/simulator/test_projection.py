"""Projections from a synthetic profile whose machine is known exactly, and from bundled data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vtrain as vt
from simulator.synthetic import BASE, true_seconds, write_collectives, write_profile
from simulator.test_specs import configurations
from vtrain_sim.catalog import Catalog
from vtrain_sim.costs import CollectiveCosts, OperatorCosts
from vtrain_sim.costs.profile import load_profile
from vtrain_sim.costs.surfaces import DeviceSurface, Surfaces
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.model import Compute, build_step, operators_of
from vtrain_sim.simulate.projection import Projection, Projector
from vtrain_sim.specs import Configuration


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("projection")
    write_profile(directory / "p")
    write_collectives(directory / "p")
    Catalog(directory / "c.duckdb").add([str(directory / "p")])
    return directory / "c.duckdb"


def project(catalog: Path, flags: str) -> Projection:
    profile = load_profile(Catalog(catalog), ["base"])
    projector = Projector(
        profile.cluster,
        OperatorCosts(DeviceSurface(profile.cluster.device), profile.operators),
        CollectiveCosts(profile.cluster, profile.collectives),
    )
    return projector.project(configuration_from_flags(flags.split(), profile.configuration))


def work(configuration: Configuration, stage: int) -> float:
    """Seconds that the known machine computes for one stage in one step."""
    program = build_step(configuration).stages[stage]
    total = sum(true_seconds(i.operator) for i in (*program.before, *program.update) if isinstance(i, Compute))
    for chunk in program.chunks:
        for part, count in chunk:
            items = operators_of((*part.forward, *part.backward))
            total += sum(true_seconds(i.operator) for i in items) * count * configuration.num_microbatches
    return total


def test_a_projection_from_bundled_data_loads_no_database() -> None:
    """Nor what draws, compiles or reads tables: most of its time is starting up."""
    code = (
        "import sys, vtrain as vt\n"
        "vt.project(vt.job('gpt3-1.3b', cluster='dgx-h100', gpus=8, mbs=1, gbs=8))\n"
        "print(*sorted({'duckdb', 'pyarrow', 'pandas', 'matplotlib', 'numba', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("tokens", [-5.0, float("nan"), float("inf")])
def test_tokens_are_a_number_of_tokens(tokens: float) -> None:
    projection = vt.project(vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16))
    for figure in (projection.days, projection.cost_usd):
        with pytest.raises(vt.UserError, match="tokens is"):
            figure(tokens)


def test_the_captured_configuration_projects_to_itself(catalog: Path) -> None:
    answer = project(catalog, "")
    assert answer.iteration_time_s == pytest.approx(work(BASE, 0), rel=1e-6)
    assert answer.provenance["measured"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "flags", ["--num-layers 8", "--global-batch-size 12", "--data-parallel-size 2", "--pipeline-model-parallel-size 2"]
)
def test_same_operators_in_another_layout_stay_measured(catalog: Path, flags: str) -> None:
    answer = project(catalog, flags)
    # All but the optimizer and the communication, whose sizes change.
    assert answer.provenance["measured"] > 0.8
    assert answer.provenance["modelled"] < 0.02
    assert answer.iteration_time_s >= work(answer.configuration, answer.critical_stage) * 0.97


@pytest.mark.parametrize(
    "flags",
    [
        "--hidden-size 384 --num-attention-heads 6",
        "--tensor-model-parallel-size 2",
        "--micro-batch-size 2",
        "--seq-length 256",
        "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1",
        "--tensor-model-parallel-size 2 --sequence-parallel",
        "--data-parallel-size 2 --use-distributed-optimizer",
    ],
)
def test_unseen_shapes_are_close_to_the_known_machine(catalog: Path, flags: str) -> None:
    answer = project(catalog, flags)
    busy = sum(v for k, v in answer.breakdown_s.items() if "communication" not in k and "bubble" not in k)
    assert busy == pytest.approx(work(answer.configuration, answer.critical_stage), rel=0.12)
    assert answer.iteration_time_low_s < answer.iteration_time_s < answer.iteration_time_high_s


def test_interleaving_shortens_the_bubble(catalog: Path) -> None:
    plain = project(catalog, "--pipeline-model-parallel-size 2")
    chunks = project(catalog, "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1")
    name = "pipeline bubble and transfers"
    assert chunks.breakdown_s[name] < plain.breakdown_s[name]


@settings(max_examples=60, deadline=None)
@given(configurations())
def test_any_valid_configuration_projects_on_a_cluster(configuration: Configuration) -> None:
    cluster = presets.cluster("dgx-a100-80gb")
    surfaces = Surfaces.from_dict(presets.cluster_surfaces("dgx-a100-80gb"))
    projector = Projector(cluster, OperatorCosts(DeviceSurface(cluster.device, surfaces)), CollectiveCosts(cluster))
    answer = projector.project(configuration)
    assert sum(answer.breakdown_s.values()) == pytest.approx(answer.iteration_time_s, rel=1e-6)
    assert sum(answer.provenance.values()) == pytest.approx(1.0)
    assert 0 < answer.mfu <= answer.hfu * (1 + 1e-9) < 1
    assert answer.memory.worst.peak_bytes > 0
    json.dumps(answer.to_dict(), allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(configurations(), st.sampled_from(["num_layers", "global_batch_size"]))
def test_more_work_never_takes_less_time(configuration: Configuration, what: str) -> None:
    from dataclasses import replace

    cluster = presets.cluster("dgx-a100-80gb")
    projector = Projector(cluster, OperatorCosts(DeviceSurface(cluster.device)), CollectiveCosts(cluster))
    if what == "num_layers":
        bigger = replace(
            configuration, model=replace(configuration.model, num_layers=2 * configuration.model.num_layers)
        )
    else:
        train = replace(configuration.train, global_batch_size=2 * configuration.train.global_batch_size)
        bigger = replace(configuration, train=train)
    assert projector.project(bigger).iteration_time_s > projector.project(configuration).iteration_time_s


def run(*arguments: str, module: str = "vtrain_sim.commands.sim") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)


def test_command_prints_the_documented_json(catalog: Path) -> None:
    done = run("project", "--catalog", str(catalog), "--run", "base", "--pipeline-model-parallel-size", "2", "--json")
    answer = json.loads(done.stdout)
    assert answer["schema"] == "vtrain.projection/1"
    assert sum(answer["breakdown_s"].values()) == pytest.approx(answer["iteration_time_s"])
    assert set(answer["provenance"]) == {"measured", "interpolated", "modelled"}
    assert len(answer["memory"]["stages"]) == 2
    for stage in answer["memory"]["stages"]:
        terms = [v for k, v in stage.items() if k.endswith("_bytes") and k != "peak_bytes"]
        assert sum(terms) == stage["peak_bytes"]


def test_command_emits_flags_that_it_reads(catalog: Path) -> None:
    emitted = run(
        "project", "--catalog", str(catalog), "--run", "base", "--num-layers", "8", "--emit-megatron"
    ).stdout.split()
    assert configuration_from_flags(emitted).model.num_layers == 8


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--run", "base"], "--catalog"),
        (["--catalog", "CATALOG"], "--run"),
        (["--catalog", "CATALOG", "--run", "bsae"], "did you mean 'base'"),
        (["--catalog", "CATALOG", "--run", "collectives"], "no operators"),
        (["--catalog", "nowhere.duckdb", "--run", "base"], "there is no catalog"),
        (["--catalog", "CATALOG", "--run", "base", "--cluster", "dgx-a100-80gb"], "do not sharpen"),
        (["--catalog", "CATALOG", "--run", "base", "--hiden-size", "8"], "--hidden-size"),
        (
            ["--catalog", "CATALOG", "--run", "base", "--tensor-model-parallel-size", "3"],
            "--tensor-model-parallel-size",
        ),
        (["--catalog", "CATALOG", "--run", "base", "--num-gpus", "-1"], "--num-gpus"),
        (["--catalog", "CATALOG", "--run", "base", "--train-tokens", "nan"], "--train-tokens"),
        (["--cluster", "dgx-a100"], "dgx-a100-80gb"),
        (["--cluster", "dgx-a100-80gb", "--model", "gpt3-175"], "gpt3-175b"),
        (["--cluster", "dgx-a100-80gb", "--model", "gpt3-175b"], "--micro-batch-size"),
        (["--cluster", "dgx-a100-80gb"], "--num-layers"),
        ([], "--cluster"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(catalog: Path, arguments: list[str], word: str) -> None:
    done = run("project", *(str(catalog) if a == "CATALOG" else a for a in arguments))
    assert done.returncode == 2
    assert done.stdout == ""
    assert word in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("form", ["csv", "json", "markdown", "table"])
def test_catalog_formats(catalog: Path, form: str) -> None:
    done = run(
        "sql",
        "SELECT 1 AS a, 'x' AS b",
        "-c",
        str(catalog),
        "--format",
        form,
        module="vtrain_sim.commands.catalog",
    )
    assert done.returncode == 0
    assert "a" in done.stdout
    assert "x" in done.stdout


def test_catalog_parquet_output_is_whole(catalog: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    target = tmp_path / "out.parquet"
    module = "vtrain_sim.commands.catalog"
    assert (
        run(
            "sql",
            "SELECT * FROM steps",
            "-c",
            str(catalog),
            "--format",
            "parquet",
            "-o",
            str(target),
            module=module,
        ).returncode
        == 0
    )
    assert pq.read_table(target).num_rows == 1
    refused = run("sql", "SELECT 1", "-c", str(catalog), "--format", "parquet", module=module)
    assert refused.returncode == 2
    nowhere = run("sql", "SELECT 1", "-c", str(catalog), "--format", "csv", "-o", "/nowhere/x.csv", module=module)
    assert nowhere.returncode == 2
    assert "cannot write" in nowhere.stderr


@pytest.mark.parametrize(
    "command",
    [["ls"], ["show", "base"], ["check"], ["schema"], ["schema", "step_breakdown"], ["ls", "--json"]],
)
def test_catalog_commands(catalog: Path, command: list[str]) -> None:
    done = run(*command, "-c", str(catalog), module="vtrain_sim.commands.catalog")
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_simulator_never_imports_torch() -> None:
    code = (
        "import sys, pkgutil, importlib, vtrain_sim\n"
        "for m in pkgutil.walk_packages(vtrain_sim.__path__, 'vtrain_sim.'): importlib.import_module(m.name)\n"
        "assert not {'torch', 'megatron', 'vtrain_plugin'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("cluster", "says"), [("dgx-b300", True), ("dgx-b200", False), ("dgx-h100", False)])
def test_a_device_that_was_only_modelled_is_called_so(cluster: str, says: bool) -> None:
    done = run(
        "project",
        "--cluster",
        cluster,
        "--model",
        "llama3-8b",
        "--micro-batch-size",
        "1",
        "--global-batch-size",
        "8",
        "--tensor-model-parallel-size",
        "8",
    )
    assert done.returncode == 0
    assert ("modelled only" in done.stdout) is says


def test_the_length_of_sequences_is_printed() -> None:
    step = "--micro-batch-size 1 --global-batch-size 8 --seq-length 4096"
    done = run("project", "--cluster", "dgx-h100", "--model", "gpt3-1.3b", *step.split())
    assert "global batch 8 sequences of 4096 tokens (8 microbatches)" in done.stdout
