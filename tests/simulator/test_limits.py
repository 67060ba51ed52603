"""What would take forever, overflow or contradict itself is refused with a limit; sentences say the right thing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vtrain as vt
from simulator.synthetic import write_profile
from vtrain_sim.api.lists import ranges
from vtrain_sim.commands.sim import app
from vtrain_sim.errors import UserError

CLUSTER = "dgx-h100"
STEP = f"--cluster {CLUSTER} --model llama3-8b --micro-batch-size 1 --global-batch-size 64"
PLAN = f"plan --cluster {CLUSTER} --model gpt3-1.3b --global-batch-size 64 --max-pp 2 --max-cp 1"
SCHEDULE = f"schedule --cluster {CLUSTER} --num-gpus 8 --models gpt3-1.3b --jobs 3"
SIZE = f"size --cluster {CLUSTER} --num-gpus 16 --days 10"


def run(command: str) -> tuple[int, str, str]:
    """Exit code (2 where a command is refused), what is printed, and the refusal."""
    result = CliRunner().invoke(app, command.split())
    if isinstance(result.exception, UserError):
        return 2, result.output, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, ""


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (f"project {STEP} --num-layers 1000000000", "--num-layers is 1000000000: more than any model has"),
        (f"project {STEP} --price-per-gpu-hour 1e308 --train-tokens 1e12", "--price-per-gpu-hour is 1e+308"),
        (f"project {STEP} --train-tokens 1e300", "--train-tokens is 1e+300: it takes a number from 0 to 1e+18"),
        (f"project {STEP} --data-parallel-size 1000000", "(1 x 1000000): 1000000 would be"),
        (f"project {STEP} --fp8-format foo", "--fp8-format is 'foo': it takes one of hybrid, e4m3"),
        (f"timeline -o o.json {STEP} --stages 0-999999999999", "--stages is 999999999999: that is beyond"),
        (f"timeline -o o.json {STEP} --stages 3-1", "--stages is '3-1': 3-1 ends before it begins"),
        (
            f"timeline -o o.json {STEP} --global-batch-size 640000 --stages 0 --microbatches 0",
            "a step of 640,000 microbatches is some 1,024,000,000 operators, more than 200,000,000",
        ),
        (f"{PLAN} --num-gpus 8 --max-gpus 16", "--num-gpus and --max-gpus say two different things"),
        (f"{PLAN} --num-gpus 8 --max-tp 2 --tensor-model-parallel-size 8", "--max-tp is 2, and a flag fixes tp at 8"),
        (f"{PLAN} --num-gpus 8 --gpu-mtbf-hours 1 --restart-seconds 1e300", "--restart-seconds is 1e+300"),
        (f"{PLAN} --num-gpus 8 --gpu-mtbf-hours 0.001 --restart-seconds 1e6 --train-tokens 1e9", "no plan ever ends"),
        (
            f"{PLAN} --num-gpus 8 --train-tokens 1e9 --deadline-days 1e-9",
            "within 1e-09 days: the fastest that fits takes 0.",
        ),
        (f"{SCHEDULE} --seeds -1", "--seeds is -1: it must be 0 or more"),
        (f"{SCHEDULE} --mean-hours 1e300", "--mean-hours is 1e+300"),
        (f"{SCHEDULE} --load 1e300", "--load is 1e+300"),
        (f"{SCHEDULE} --restart-seconds 1e300", "--restart-seconds is 1e+300"),
        (f"{SIZE} --global-batch-size 0", "--global-batch-size is 0: it must be 1 or more"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_refusals(command: str, sentence: str) -> None:
    code, _, refused = run(command)
    assert code == 2
    assert sentence in refused
    assert "0.0 days" not in refused


def test_lists_that_are_empty() -> None:
    for arguments, word in (
        ({"seeds": ""}, "--seeds is empty"),
        ({"seeds": []}, "--seeds is empty"),
        ({"global_batch_size": ()}, "--global-batch-size is empty"),
    ):
        with pytest.raises(UserError, match=word):
            vt.schedule(cluster=CLUSTER, num_gpus=8, jobs=3, models="gpt3-1.3b", **arguments)


def test_a_batch_that_is_too_small_is_said_once() -> None:
    with pytest.raises(UserError) as caught:
        vt.job("llama3-8b", cluster=CLUSTER, gpus=64, mbs=1, gbs=16)
    assert str(caught.value).endswith("(1 x 64): 64 would be")


def test_ranges() -> None:
    assert ranges("--stages", "0,2-4,7") == (0, 2, 3, 4, 7)
    assert ranges("--stages", "") is None


def test_a_sweep_is_bounded() -> None:
    job = vt.job("gpt3-1.3b", cluster=CLUSTER, mbs=1, gbs=64)
    with pytest.raises(UserError, match="combine to 1,600,000,000 points, a sweep takes 100,000"):
        vt.sweep(job, tp=range(1, 40_001), pp=range(1, 40_001))


def test_a_sweep_of_nothing_but_refusals_fails() -> None:
    done = CliRunner().invoke(app, f"sweep --json {STEP} --vary tp=3,5".split())
    assert done.exit_code == 2
    assert len(json.loads(done.stdout)["points"]) == 2
    assert done.stderr.startswith("vtrain-sim: no point can be projected: --tensor-model-parallel-size is 3")
    assert run(f"sweep --json {STEP} --vary tp=3,2")[0] == 0


def test_a_fixed_size_may_pass_a_limit_that_was_not_given() -> None:
    code, output, _ = run(f"{PLAN} --json --num-gpus 16 --tensor-model-parallel-size 16 --top 1")
    assert (code, json.loads(output)["plans"][0]["tp"]) == (0, 16)


def test_tables_that_lack_a_column(tmp_path: Path) -> None:
    table = tmp_path / "x.csv"
    table.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"x\.csv is no table of such measurements: it has no column"):
        vt.calibrate(collectives=table, cluster=CLUSTER)


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"\0" * 100, b"x"])
@pytest.mark.parametrize("name", ["x.csv", "x.duckdb"])
def test_files_that_are_no_catalog(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    write_profile(tmp_path / "profiles")
    with pytest.raises(UserError, match=f"{name} is not a vtrain catalog"):
        vt.job.from_run(tmp_path / name, "base")
    with pytest.raises(UserError, match=f"{name} is not a vtrain catalog"):
        vt.Catalog(tmp_path / name).add([str(tmp_path / "profiles")])
    assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize("value", ["true", "false"])
def test_spec_entries_that_take_a_value(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"micro_batch_size: {value}\n")
    code, _, sentence = run(f"project --cluster {CLUSTER} --model gpt3-1.3b --spec {path}")
    assert (code, sentence) == (2, f"{path}: micro_batch_size is {value}: it takes a value")
