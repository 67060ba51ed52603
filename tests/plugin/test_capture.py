"""Real training runs of Megatron-Core under the plugin: what is captured is what ran."""

from __future__ import annotations

import itertools
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conftest import OLD_MEGATRON, SCRIPT, SMALL, Capture, run_python
from support.captured_program import captured_operators, of_passes, program_operators
from vtrain_schemas.words import ROLES
from vtrain_sim.catalog import Catalog
from vtrain_sim.costs.profile import load_profile
from vtrain_sim.errors import UserError
from vtrain_sim.inputs.captured_run import configuration_from_run
from vtrain_sim.model import Compute, build_step

pytestmark = pytest.mark.slow
Capturing = Callable[..., Capture]

LAYOUTS = {
    "plain": (1, ()),
    "llama": (
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
    ),
    "bf16": (1, ("--bf16",)),
    "full-recompute": (1, ("--recompute-full",)),
    "selective": (1, ("--recompute-selective",)),
    "tp2": (2, ("--tensor-model-parallel-size", "2")),
    "tp2-sp": (2, ("--tensor-model-parallel-size", "2", "--sequence-parallel")),
    "pp2": (2, ("--pipeline-model-parallel-size", "2")),
    "pp2-vpp2": (2, ("--pipeline-model-parallel-size", "2", "--num-layers-per-virtual-pipeline-stage", "1")),
    "dp2": (2, ()),
    "dp2-zero": (2, ("--use-distributed-optimizer", "--overlap-grad-reduce", "--overlap-param-gather")),
}


def layout(capture: Capturing, name: str) -> Capture:
    processes, flags = LAYOUTS[name]
    return capture(name, processes, *flags)


@pytest.mark.parametrize("name", LAYOUTS)
def test_captured_operators_are_the_simulators_program(capture: Capturing, name: str) -> None:
    """Kinds, phases, shapes and counts of every operator of every rank, against the program."""
    run = layout(capture, name)
    captured = captured_operators(run.catalog, 2)
    assert {rank: of_passes(operators) for rank, operators in captured.items()} == program_operators(run.catalog, name)
    shown = run.catalog.show(name)
    step = build_step(configuration_from_run(shown["run"]))
    for rank in shown["ranks"]:
        program = step.stages[rank["pp_rank"]]
        for item in (*program.before, *program.update):
            if isinstance(item, Compute) and item.operator.kind in ("zero_grad", "optimizer"):
                counts = captured[rank["rank"]].items()
                elements = sum(key[2] * count for key, count in counts if key[0] == item.operator.kind)
                # Shards of a distributed optimizer are padded.
                assert elements == pytest.approx(item.operator.m, rel=0.02), item.operator.kind


@pytest.mark.parametrize("name", LAYOUTS)
def test_parameter_count_is_megatrons(capture: Capturing, name: str) -> None:
    run = layout(capture, name)
    step = build_step(configuration_from_run(run.catalog.show(name)["run"]))
    for rank in run.catalog.show(name)["ranks"]:
        stage = step.stages[rank["pp_rank"]]
        assert rank["parameters"] == stage.parameters + stage.expert_parameters


@pytest.mark.parametrize("name", LAYOUTS)
def test_time_is_conserved(capture: Capturing, name: str) -> None:
    """Parts of a step add up to it, and no span lies outside its step."""
    run = layout(capture, name)
    rows = run.catalog.sql("SELECT * FROM step_breakdown").to_pylist()
    assert rows
    for row in rows:
        parts = [v for k, v in row.items() if k.endswith("_ns") and k not in ("duration_ns", "other_ns")]
        assert sum(parts) + row["other_ns"] == row["duration_ns"]
        assert all(p >= 0 for p in parts)
        # Nothing is counted twice.
        assert row["other_ns"] >= -0.03 * row["duration_ns"]
    # What no part covers is small, at least where a busy machine did not interrupt.
    assert min(row["other_ns"] / row["duration_ns"] for row in rows) <= 0.5
    outside = run.catalog.sql(
        """
        SELECT count(*) AS n FROM spans x JOIN steps s USING (run_id, rank, step)
        WHERE x.start_ns < s.start_ns OR x.start_ns + x.duration_ns > s.start_ns + s.duration_ns
        """
    ).to_pylist()
    assert outside[0]["n"] == 0


@pytest.mark.parametrize("name", LAYOUTS)
def test_layers_microbatches_and_chunks_are_complete(capture: Capturing, name: str) -> None:
    run = layout(capture, name)
    row = run.catalog.show(name)["run"]
    found = run.catalog.sql(
        "SELECT DISTINCT layer_number, microbatch, phase FROM spans WHERE kind = 'transformer_layer'"
    ).to_pylist()
    seen = {(r["layer_number"], r["microbatch"], r["phase"]) for r in found}
    phases = {"forward", "backward"} | ({"recompute"} if row["recompute_granularity"] == "full" else set())
    layers, microbatches = range(1, 5), range(row["num_microbatches"])
    assert seen == {(layer, m, phase) for layer in layers for m in microbatches for phase in phases}
    chunks = run.catalog.sql("SELECT DISTINCT chunk FROM spans WHERE chunk IS NOT NULL").to_pylist()
    assert {r["chunk"] for r in chunks} == set(range(row["virtual_pipeline_chunks"]))


def test_collectives_have_role_bytes_and_group(capture: Capturing) -> None:
    run = layout(capture, "tp2-sp")
    rows = run.catalog.sql(
        "SELECT DISTINCT op, bytes, group_ranks FROM collectives "
        "WHERE role = 'tp' AND op IN ('all_gather', 'reduce_scatter')"
    ).to_pylist()
    assert {r["op"] for r in rows} == {"all_gather", "reduce_scatter"}
    assert all(r["group_ranks"] == [0, 1] for r in rows)
    # [s, b, h] in fp32.
    assert {r["bytes"] for r in rows} == {32 * 1 * 64 * 4}


def test_both_ends_of_a_call_have_one_sequence_number(capture: Capturing) -> None:
    for name in ("tp2", "pp2", "pp2-vpp2", "dp2", "dp2-zero"):
        run = layout(capture, name)
        rows = run.catalog.sql(
            "SELECT ranks_seen, transfer_ns, wait_ns, duration_ns, is_async, exposed_ns FROM collective_transfers "
            "WHERE len(group_ranks) > 1"
        ).to_pylist()
        assert rows
        assert all(r["ranks_seen"] == 2 for r in rows), name
        # When an asynchronous call ended is not known, only how long it was waited for.
        known = [r for r in rows if r["duration_ns"] is not None]
        assert all((r["duration_ns"] is None) == r["is_async"] for r in rows)
        assert all(r["exposed_ns"] is not None for r in rows)
        assert known
        assert all(r["transfer_ns"] + r["wait_ns"] == r["duration_ns"] for r in known)


def test_roles_of_every_layout(capture: Capturing) -> None:
    expected = {"tp2": "tp", "pp2": "pp", "pp2-vpp2": "pp", "dp2": "dp", "dp2-zero": "dp"}
    for name, role in expected.items():
        rows = (
            layout(capture, name)
            .catalog.sql("SELECT DISTINCT role FROM collectives WHERE len(group_ranks) > 1")
            .to_pylist()
        )
        assert role in {r["role"] for r in rows}, name


def test_gradient_sync_moves_every_gradient(capture: Capturing) -> None:
    run = layout(capture, "dp2")
    parameters = run.catalog.show("dp2")["ranks"][0]["parameters"]
    rows = run.catalog.sql(
        "SELECT sum(bytes) AS bytes FROM collectives WHERE role = 'dp' AND rank = 0 AND step = 2"
    ).to_pylist()
    assert rows[0]["bytes"] == 4 * parameters


def test_mixture_of_experts(capture: Capturing) -> None:
    run = capture("moe", 2, "--num-experts", "4", "--expert-model-parallel-size", "2")
    kinds = {r["kind"] for r in run.catalog.sql("SELECT DISTINCT kind FROM operators").to_pylist()}
    assert {"router", "permute", "gemm", "activation", "attention"} <= kinds
    roles = {r["role"] for r in run.catalog.sql("SELECT DISTINCT role FROM collectives").to_pylist()}
    assert "ep" in roles
    parameters = run.catalog.show("moe")["ranks"][0]["parameters"]
    stage = build_step(configuration_from_run(run.catalog.show("moe")["run"])).stages[0]
    assert parameters == stage.parameters + stage.expert_parameters


@pytest.mark.parametrize("name", ["plain", "experts", "full-recompute"])
def test_backward_passes_of_modules_do_not_overlap(capture: Capturing, name: str) -> None:
    """Experts take parts of one tensor, whose gradient is whole only after the last of them: each ends by itself."""
    if name == "experts":
        run = capture(name, 1, "--num-experts", "4", "--disable-bias-linear", "--swiglu")
    else:
        run = layout(capture, name)
    rows = run.catalog.sql(
        """
        SELECT step, name, start_ns, start_ns + duration_ns AS end_ns FROM spans
        WHERE phase = 'backward' AND span_id NOT IN (SELECT parent_id FROM spans WHERE parent_id IS NOT NULL)
        ORDER BY step, start_ns
        """
    ).to_pylist()
    assert sum("linear" in row["name"] for row in rows) > 20
    for one, other in itertools.pairwise(rows):
        assert one["step"] < other["step"] or one["end_ns"] <= other["start_ns"], (one["name"], other["name"])
    assert not run.catalog.check()


EXPERTS = ("--num-experts", "4", "--disable-bias-linear")
IN_CONFIGURATION_ONLY = {
    "shared-experts": (
        1,
        (*EXPERTS, "--moe-shared-expert-intermediate-size", "48", "--moe-layer-freq", "[0,0,1,1]", "--qk-layernorm"),
        {"moe_shared_expert_intermediate_size": 48, "moe_layer_freq": "([0]*2+[1]*2)", "qk_layernorm": True},
        {},
    ),
    "etp1": (
        2,
        (
            *EXPERTS,
            "--tensor-model-parallel-size",
            "2",
            "--sequence-parallel",
            "--expert-model-parallel-size",
            "2",
            "--expert-tensor-parallel-size",
            "1",
        ),
        {"num_experts": 4},
        {"expert_tp": 1},
    ),
    "uneven": (
        2,
        ("--pipeline-model-parallel-size", "2", "--decoder-first-pipeline-num-layers", "1"),
        {"dropout": False},
        {"layers": (1, 3)},
    ),
}


@pytest.mark.parametrize("name", IN_CONFIGURATION_ONLY)
def test_what_only_the_configuration_says_is_read_back(capture: Capturing, name: str) -> None:
    processes, flags, model, parallel = IN_CONFIGURATION_ONLY[name]
    run = capture(name, processes, *flags)
    configuration = configuration_from_run(run.catalog.show(name)["run"])
    assert {field: getattr(configuration.model, field) for field in model} == model
    assert {field: getattr(configuration.parallel, field) for field in parallel} == parallel
    assert not configuration.train.gradient_accumulation_fusion
    # Refuses another number of parameters than a rank really holds.
    assert load_profile(run.catalog, [name]).configuration is not None


def test_expert_tensor_parallel_collectives_have_their_role(capture: Capturing) -> None:
    run = capture("etp2", 2, *EXPERTS, "--tensor-model-parallel-size", "2", "--sequence-parallel")
    roles = {r["role"] for r in run.catalog.sql("SELECT DISTINCT role FROM collectives").to_pylist()}
    assert "expert_tp" in roles
    assert roles <= set(ROLES)


def test_another_optimizer_than_adam_is_named_and_refused(capture: Capturing) -> None:
    run = capture("sgd", 1, "--optimizer", "sgd")
    row = run.catalog.show("sgd")["run"]
    assert row["optimizer"] == "sgd"
    with pytest.raises(UserError, match="another optimizer than Adam"):
        configuration_from_run(row)
    assert layout(capture, "plain").catalog.show("plain")["run"]["optimizer"] == "adam"


@pytest.mark.parametrize(
    ("name", "processes", "flags"),
    [
        ("old-plain", 1, ()),
        ("old-tp2", 2, ("--tensor-model-parallel-size", "2")),
        ("old-vpp", 2, LAYOUTS["pp2-vpp2"][1]),
    ],
)
def test_oldest_supported_megatron(capture: Capturing, name: str, processes: int, flags: tuple[str, ...]) -> None:
    if not OLD_MEGATRON.exists():
        pytest.skip("megatron-core 0.12 is not beside the environment: make test installs it")
    run = capture(name, processes, *flags, env={"PYTHONPATH": str(OLD_MEGATRON)})
    row = run.catalog.show(name)["run"]
    assert row["megatron_core_version"].startswith("0.12")
    kinds = {r["kind"] for r in run.catalog.sql("SELECT DISTINCT kind FROM spans").to_pylist()}
    assert {"transformer_layer", "self_attention", "mlp", "embedding", "loss", "optimizer"} <= kinds
    assert len(run.catalog.show(name)["steps"]) == 2 * processes


def losses(text: str) -> list[str]:
    return re.findall(r"loss (\S+) grad norm (\S+)", text)


@pytest.mark.parametrize("name", ["plain", "pp2-vpp2", "dp2-zero"])
def test_training_is_not_changed(capture: Capturing, name: str) -> None:
    """Losses and gradient norms are the same to the last printed digit with and without the plugin."""
    processes, flags = LAYOUTS[name]
    without = run_python([str(SCRIPT), *SMALL, *flags], processes)
    assert losses(without.stdout)
    assert losses(layout(capture, name).stdout) == losses(without.stdout)


def test_environment_variable_arms_an_unmodified_command(tmp_path: Path) -> None:
    env = {"VTRAIN_OUT": str(tmp_path), "VTRAIN_WARMUP": "1", "VTRAIN_STEPS": "1", "VTRAIN_RUN_ID": "env"}
    run_python([str(SCRIPT), *SMALL], env=env)
    assert (tmp_path / "run_id=env" / "table=spans" / "rank=00000.parquet").exists()


def test_flags_come_before_the_environment(tmp_path: Path) -> None:
    env = {"VTRAIN_OUT": str(tmp_path / "env"), "VTRAIN_WARMUP": "1", "VTRAIN_STEPS": "1", "VTRAIN_RUN_ID": "env"}
    flags = ["--out", str(tmp_path / "flags"), "--steps", "2", "--run-id", "flags"]
    run_python(["-m", "vtrain_plugin", *flags, str(SCRIPT), *SMALL], env=env)
    assert not (tmp_path / "env").exists()
    catalog = Catalog(tmp_path / "catalog.duckdb")
    catalog.add([str(tmp_path / "flags")])
    row = catalog.show("flags")["run"]
    # What no flag says is the environment's.
    assert (row["warmup_steps"], row["active_steps"]) == (1, 2)


def test_vtrain_profile_run(tmp_path: Path) -> None:
    run_python(
        [
            "-m",
            "vtrain_plugin.cli",
            "run",
            "--out",
            str(tmp_path),
            "--run-id",
            "cli",
            "--warmup",
            "1",
            "--steps",
            "1",
            "--",
            sys.executable,
            str(SCRIPT),
            *SMALL,
        ]
    )
    assert (tmp_path / "run_id=cli" / "table=runs" / "rank=00000.parquet").exists()


def test_python_api_leaves_nothing_behind(tmp_path: Path) -> None:
    script = Path(__file__).with_name("api_script.py")
    done = run_python([str(script), str(tmp_path)])
    assert "clean" in done.stdout
    assert (tmp_path / "run_id=api" / "table=steps").exists()


def test_spans_only(capture: Capturing) -> None:
    run = capture("spans-only", 1, plugin=("--no-operators",))
    assert run.catalog.sql("SELECT * FROM operators").num_rows == 0
    kinds = {r["kind"] for r in run.catalog.sql("SELECT DISTINCT kind FROM spans").to_pylist()}
    assert "transformer_layer" in kinds
    assert "linear" not in kinds


def test_kernels_record_framework_operators_with_shapes(capture: Capturing) -> None:
    run = capture("kernels", 1, plugin=("--kernels",))
    rows = run.catalog.sql(
        "SELECT name, kind, m, n, k FROM operators WHERE source = 'kineto' AND kind = 'gemm'"
    ).to_pylist()
    assert any((r["m"], r["n"], r["k"]) == (32, 192, 64) for r in rows), "the QKV projection"


def test_read_only_disk_is_reported_once_and_training_goes_on() -> None:
    done = run_python(
        [
            "-m",
            "vtrain_plugin",
            "--out",
            "/proc/nowhere",
            "--warmup",
            "1",
            "--steps",
            "2",
            str(SCRIPT),
            *SMALL,
        ]
    )
    reports = [line for line in done.stderr.splitlines() if line.startswith("vtrain")]
    assert len(reports) == 1
    assert "training goes on" in reports[0]
    assert len(losses(done.stdout)) == 4


@pytest.mark.parametrize("place", ["classify", "stop", "backward", "collective", "rows", "metadata"])
def test_a_defect_of_the_plugin_never_reaches_training(capture: Capturing, tmp_path: Path, place: str) -> None:
    script = Path(__file__).with_name("broken_script.py")
    done = run_python([str(script), place, str(tmp_path), *SMALL])
    reports = [line for line in done.stderr.splitlines() if line.startswith("vtrain")]
    assert len(reports) == 1
    assert "a defect of the plugin" in reports[0]
    assert losses(done.stdout) == losses(layout(capture, "plain").stdout)


def test_killed_process_leaves_whole_files_only(tmp_path: Path) -> None:
    # A long capture is written while it goes on; here, often.
    soon = (
        "from vtrain_plugin.capture import output; output.LONG_S = 0.2; from vtrain_plugin.launcher import main; main()"
    )
    flags = ["--out", str(tmp_path), "--warmup", "0", "--steps", "100000", "--run-id", "killed"]
    training = [str(SCRIPT), *SMALL[:-2], "--train-iters", "100000", "--quiet"]
    command = [sys.executable, "-c", soon, *flags, *training]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and len(list(tmp_path.rglob("table=steps/*.parquet"))) < 5:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    files = list(tmp_path.rglob("*.parquet"))
    assert len(files) > 10
    for file in files:
        assert pq.read_table(file).num_rows > 0


def test_script_that_is_not_there_is_refused() -> None:
    done = run_python(["-m", "vtrain_plugin", "--out", "x", "nowhere.py"], check=False)
    assert done.returncode == 2
    assert "there is no script" in done.stderr
    assert "Traceback" not in done.stderr
