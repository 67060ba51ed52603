"""Studies: the same results here and on a Ray cluster, resumed, and with a worker killed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from simulator.api.workplace import furnish
from vtrain_sim.commands.sim import app
from vtrain_sim.decide.study import read_study, run_study, run_unit
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
        remote = run_study(units, tmp_path / "ray", "ray")
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
        (STUDY.replace("[64, 128]", '["x"]'), "not a number"),
    ],
)
def test_broken_studies_are_one_sentence(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(UserError, match=word):
        read_study(tmp_path / "s.toml")


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
