"""Studies: the same results here and on a Ray cluster, resumed, and with a worker killed."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import vtrain as vt
from simulator.api.workplace import furnish
from vtrain_sim.api.plan import plan as api_plan
from vtrain_sim.commands.sim import app
from vtrain_sim.decide.executors import Workers
from vtrain_sim.decide.study import read_study, run_study, run_unit
from vtrain_sim.decide.study.entries import ENTRIES
from vtrain_sim.errors import UserError

STUDY = """
models = ["gpt3-1.3b", "gpt3-2.7b", "gpt3-6.7b"]
clusters = ["dgx-a100-80gb", "dgx-h100"]
global_batch_sizes = [64, 128]
num_gpus = [8, 16]
train_tokens = 1e10
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


def test_a_study_goes_on_where_it_stopped(study: Path, tmp_path: Path) -> None:
    units = read_study(study)
    assert len(units) == len({u.name for u in units}) == 12
    seen: list[int] = []

    def interrupt(done: int, total: int, share: float) -> None:
        seen.append(done)
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(units, tmp_path / "out", progress=interrupt)
    assert len(list((tmp_path / "out").glob("*.json"))) == 5
    seen.clear()
    results = run_study(units, tmp_path / "out", progress=lambda done, total, share: seen.append(done))
    assert seen[0] == 5
    assert seen[-1] == 12
    assert results == [json.loads(json.dumps(run_unit(u))) for u in units]


def test_results_are_named_after_the_whole_preset_or_the_file(study: Path) -> None:
    names = {u.name.rsplit("-", 1)[0] for u in read_study(study)}
    assert "gpt3-6.7b-dgx-h100-128" in names
    unit = replace(read_study(study)[0], model="models/small/config.json", cluster="racks/rack.toml")
    assert unit.name.startswith("config-rack-64-")


def test_ray_gives_the_same_results_and_survives_a_killed_worker(study: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    units = read_study(study)
    local = run_study(units, tmp_path / "local")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    killed: list[int] = []

    def kill() -> None:
        """Kill one worker process that runs a unit."""
        for _ in range(600):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    title = (process / "cmdline").read_bytes().split(b"\0")[0].decode()
                except OSError:
                    continue
                if title.startswith("ray::run_unit") and not killed:
                    os.kill(int(process.name), signal.SIGKILL)
                    killed.append(int(process.name))
                    return
            time.sleep(0.05)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        remote = run_study(units, tmp_path / "ray", Workers("ray"))
    finally:
        thread.join()
        ray.shutdown()
    assert killed
    assert remote == local


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("models = []", "does not list its models"),
        ("x = 1", "unknown entry 'x'"),
        (STUDY.replace("num_gpus = [8, 16]", ""), "neither num_gpus nor max_gpus"),
        (STUDY.replace("gpt3-1.3b", "gpt3-1.4b"), "there is no model"),
        (STUDY + 'rank_by = "joy"', "takes one of"),
        (STUDY.replace("[64, 128]", '["x"]'), r"global_batch_sizes is \['x'\], which is not a whole number"),
        (STUDY + "max_tps = 4", r"unknown entry 'max_tps' \(did you mean 'max_tp'\?\)"),
        (STUDY + "max_tp = 0", "--max-tp is 0"),
        (STUDY + "allow_tight = 1", "allow_tight is 1, which is not true or false"),
        (STUDY + 'schedules = ["1f2b"]', "did you mean '1f1b'"),
        (STUDY + 'flags = "--seq-lenght 4"', "--seq-length"),
        (STUDY + 'flags = "--x \'y"', "which is not Megatron's arguments"),
        (STUDY + 'flags = "--global-batch-size 64"', "global_batch_sizes does"),
        (STUDY + "checkpoint_seconds = 5", "checkpoint_seconds says what a failure costs: it needs gpu_mtbf_hours"),
        (STUDY + "price_per_gpu_hour = -1", "price_per_gpu_hour is -1"),
        (STUDY + "top = 0", "top is 0"),
        (STUDY.replace("train_tokens = 1e10", "deadline_days = 3"), "--deadline-days needs --train-tokens"),
    ],
)
def test_broken_studies_are_one_sentence(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(UserError, match=word):
        read_study(tmp_path / "s.toml")


def test_every_option_of_plan_is_an_entry_of_a_study() -> None:
    of_one_plan = {"model", "cluster", "global_batch_size", "own", "own_name", "progress", "fixed"}
    # Where units run is said beside the file.
    where = {"processes", "executor", "address"}
    options = set(inspect.signature(api_plan).parameters) - of_one_plan - where
    assert options <= {entry.name for entry in ENTRIES}


def test_a_study_plans_as_plan_does(tmp_path: Path) -> None:
    """With every kind of entry: flags, bounds, failures, budget, price."""
    (tmp_path / "s.yaml").write_text(
        "models: [mixtral-8x7b]\nclusters: [dgx-h100]\nglobal_batch_sizes: 64\nnum_gpus: 32\ntrain_tokens: 1e9\n"
        "flags: [--seq-length, 8192, --expert-model-parallel-size, 4]\nmax_tp: 2\nmax_pp: 4\nmax_cp: 2\n"
        "schedules: interleaved\ngpu_mtbf_hours: 20000\ncheckpoint_seconds: 30\nprice_per_gpu_hour: 2.5\n"
        "deadline_days: 30\nrank_by: dollars\nallow_tight: true\ntop: 2\n"
    )
    (result,) = run_study(read_study(tmp_path / "s.yaml"), tmp_path / "out")
    expected = api_plan(
        "mixtral-8x7b",
        cluster="dgx-h100",
        global_batch_size=64,
        num_gpus=32,
        train_tokens=1e9,
        flags=["--seq-length", "8192", "--expert-model-parallel-size", "4"],
        max_tp=2,
        max_pp=4,
        max_cp=2,
        schedules="interleaved",
        gpu_mtbf_hours=20000,
        checkpoint_seconds=30,
        price_per_gpu_hour=2.5,
        deadline_days=30,
        rank_by="dollars",
        allow_tight=True,
        top=2,
    )
    assert result["plans"] == json.loads(json.dumps([p.to_dict() for p in expected.plans]))
    assert {p["ep"] for p in result["plans"]} == {4}
    assert "checkpoint_interval_s" in result["plans"][0]


def test_micro_batch_sizes_bound_the_search(study: Path) -> None:
    study.write_text(STUDY + "micro_batch_sizes = [2]\n")
    assert {plan["mbs"] for plan in run_unit(read_study(study)[0])["plans"]} == {2}


def test_processes_give_the_same_results(study: Path, tmp_path: Path) -> None:
    units = read_study(study)[:4]
    assert run_study(units, tmp_path / "two", Workers(processes=2)) == run_study(units, tmp_path / "one")


MACHINE = (
    'device = "a100-sxm-80gb"\ngpus_per_node = 8\nnvlink_gb_per_s = 300\nnics_per_node = 8\nnic_gbit_per_s = 200\n'
    "price_per_gpu_hour = 2.0\n"
)


def test_a_unit_runs_again_where_the_content_of_its_inputs_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    Path("rack.toml").write_text(MACHINE)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 1024}
    config |= {"intermediate_size": 2816, "num_attention_heads": 16, "num_hidden_layers": 8, "vocab_size": 32000}
    Path("config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    Path("s.toml").write_text(
        'models = ["config.json", "train.sh"]\nclusters = ["rack.toml"]\nglobal_batch_sizes = [16]\nnum_gpus = [8]\n'
        "train_tokens = 1e9\n"
    )

    def study() -> tuple[list[dict[str, Any]], int, list[str]]:
        """Best plans, units that ran, and what was said."""
        said: list[str] = []
        ran: list[int] = []
        result = vt.study("s.toml", "out", noted=said.append, progress=lambda done, count, share: ran.append(done))
        return result.rows(), ran[-1] - ran[0], [sentence for sentence in said if "not used" in sentence]

    first, ran, said = study()
    assert (ran, said) == (2, [])
    assert study() == (first, 0, [])
    Path("rack.toml").write_text(MACHINE.replace("price_per_gpu_hour = 2.0", "price_per_gpu_hour = 20"))
    dearer, ran, said = study()
    assert [row["cost_usd"] for row in dearer] == pytest.approx([10 * row["cost_usd"] for row in first])
    assert ran == 2
    assert said == [
        "2 results of other units, or of inputs as they were before they changed, lie in out and are not used"
    ]
    Path("rack.toml").write_text(MACHINE.replace("nvlink_gb_per_s = 300", "nvlink_gb_per_s = 3"))
    slower, ran, _ = study()
    assert all(new["iteration_time_s"] > old["iteration_time_s"] for new, old in zip(slower, first, strict=True))
    assert ran == 2
    Path("rack.toml").write_text(MACHINE)
    Path("config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048, "num_hidden_layers": 12}))
    deeper, ran, _ = study()
    assert (ran, deeper[1]) == (1, first[1])
    assert deeper[0]["iteration_time_s"] > first[0]["iteration_time_s"]


def test_another_version_of_the_simulator_has_other_results(study: Path) -> None:
    unit = read_study(study)[0]
    other = replace(unit, simulator="0")
    assert other.name != unit.name
    with pytest.raises(UserError, match="another version of vtrain"):
        run_unit(other)


def test_only_json_is_on_stdout_with_ray(study: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    study.write_text(STUDY.replace("[8, 16]", "[8]").replace("[64, 128]", "[64]"))
    command = [sys.executable, "-m", "vtrain_sim.commands.sim", "study", str(study), "--out", str(tmp_path / "o")]
    done = subprocess.run(
        [*command, "--executor", "ray", "--json"], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert [result["unit"]["cluster"] for result in json.loads(done.stdout)] == ["dgx-a100-80gb", "dgx-h100"] * 3


def test_ctrl_c_ends_all_processes_and_keeps_what_is_done(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    study.write_text(STUDY.replace("[8, 16]", "[8, 16, 32]"))
    command = [sys.executable, "-m", "vtrain_sim.commands.sim", "study", str(study), "--out", str(out)]
    with subprocess.Popen(
        [*command, "--processes", "2"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        until(lambda: any(out.glob("*.json")))
        workers = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        begin = time.monotonic()
        stdout, stderr = process.communicate(timeout=60)
        assert time.monotonic() - begin < 10
    assert len(workers) == 2
    assert process.returncode not in (0, 2)
    assert stdout == ""
    assert "Traceback" not in stderr
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
    kept = list(out.iterdir())
    assert 0 < len(kept) < 12
    for path in kept:
        assert json.loads(path.read_text())["plans"]


def test_processes_end_when_what_started_them_is_killed(study: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vtrain_sim.commands.sim", "study", str(study), "--out", str(tmp_path / "o")]
    with subprocess.Popen([*command, "--processes", "2"], env=environment(), stdout=subprocess.DEVNULL) as process:
        until(lambda: len(children(process.pid)) == 2)
        workers = children(process.pid)
        process.kill()
    until(lambda: not [worker for worker in workers if Path(f"/proc/{worker}").exists()])


def environment() -> dict[str, str]:
    """With the modules that this process finds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def until(holds: Callable[[], bool]) -> None:
    """Wait for it, a minute at most."""
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def test_sizes_that_a_plan_has_are_in_the_table(tmp_path: Path) -> None:
    text = STUDY.replace('"gpt3-6.7b"', '"mixtral-8x7b"').replace("[8, 16]", "[64]").replace("[64, 128]", "[64]")
    (tmp_path / "s.toml").write_text(text + 'flags = ["--context-parallel-size", "2", "--seq-length", "4096"]\n')
    command = ["study", str(tmp_path / "s.toml"), "--out", str(tmp_path / "o"), "--processes", "1"]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "100"})
    assert done.exit_code == 0, done.exception
    title, columns, *lines = done.stdout.strip().splitlines()
    assert "cp 2" in title
    assert "ep" in columns.split()
    assert max(map(len, lines)) <= 100
    csv = CliRunner().invoke(app, [*command, "--format", "csv"]).stdout.splitlines()
    assert {"schedule", "cp", "ep"} <= set(csv[0].split(","))


def test_command(study: Path, tmp_path: Path) -> None:
    arguments = ["study", str(study), "--out", str(tmp_path / "o"), "--table", str(tmp_path / "t.csv")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.exception
    assert "gpt3-6.7b" in done.stdout
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 13
    assert isinstance(CliRunner().invoke(app, [*arguments, "--executor", "slurm"]).exception, UserError)


def test_models_may_be_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their step is kept (sequence length, recomputation, batch), their layout is searched."""
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    script = (tmp_path / "train.sh").read_text()
    full = script.replace("--micro-batch-size 1", "--recompute-granularity full --micro-batch-size 1")
    (tmp_path / "full.sh").write_text(full.replace("--seq-length 2048", "--seq-length 1024"))
    (tmp_path / "s.toml").write_text(
        'models = ["full.sh", "job.yaml", "run:base"]\nclusters = ["dgx-a100-80gb"]\nnum_gpus = [4]\n'
    )
    command = ["study", "s.toml", "--out", "o", "--catalog", "vtrain.duckdb", "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, (done.output, done.exception)
    script_unit, spec_unit, run_unit = json.loads(done.stdout)
    assert [u["unit"]["global_batch_size"] for u in (script_unit, spec_unit, run_unit)] == [16, 16, 4]
    plans = script_unit["plans"]
    assert {p["recompute"] for p in plans} == {"full"}
    assert {p["megatron_args"][p["megatron_args"].index("--seq-length") + 1] for p in plans} == {"1024"}
    assert [p["tp"] for p in plans] != [2] * len(plans)
    assert "--num-layers 4 " in " ".join(run_unit["plans"][0]["megatron_args"])
    assert "note: full.sh: searched, not as the file has it: --tensor-model-parallel-size, --micro-batch-size" in (
        done.stderr
    )
    # What a script says is part of the unit: another script is another unit.
    (tmp_path / "full.sh").write_text(script)
    again = json.loads(CliRunner().invoke(app, command).stdout)
    assert {p["recompute"] for p in again[0]["plans"]} != {"full"}
    assert len(list((tmp_path / "o").iterdir())) == 4


def test_jobs_that_cannot_be_planned_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    for model, says in (
        ("run:base", "--catalog"),
        ("gpt3-1.3b", "does not say its own"),
        ("no.sh", "no model 'no.sh'"),
    ):
        (tmp_path / "s.toml").write_text(f'models = ["{model}"]\nclusters = ["dgx-a100-80gb"]\nnum_gpus = [4]\n')
        with pytest.raises(UserError, match=says):
            CliRunner().invoke(app, ["study", "s.toml", "--out", "o"], catch_exceptions=False)
