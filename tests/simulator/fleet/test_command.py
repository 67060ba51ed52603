"""``vtrain-sim schedule`` with nodes, tenants, failures and restarts."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vtrain as vt
from vtrain_sim.api.schedule_conditions import quotas_of
from vtrain_sim.commands.sim import app
from vtrain_sim.errors import UserError
from vtrain_sim.report.page.parts.fleet import page_of_fleet

HEADER = "job_id,arrival_s,model,global_batch_size,iterations,gpus,tenant,priority\n"
JOBS = f"""{HEADER}a,0,gpt3-1.3b,64,5000,8,research,0
b,10,gpt3-1.3b,64,3000,8,research,0
c,20,gpt3-1.3b,64,2000,4,product,1
d,30,gpt3-1.3b,64,1000,12,product,0
"""
BASE = ["schedule", "--cluster", "dgx-a100-80gb", "--num-gpus", "16"]


def run(*words: str) -> str:
    done = CliRunner().invoke(app, [*BASE, *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    (tmp_path / "jobs.csv").write_text(JOBS)
    return tmp_path / "jobs.csv"


def test_nodes_tenants_and_failures_are_reported(trace: Path, tmp_path: Path) -> None:
    words = ["--trace", str(trace), "--policies", "fifo,priority,gandiva", "--placement", "packed", "--migrate"]
    words += ["--quotas", "research=8,product=8", "--gpu-mtbf-hours", "200", "--repair-hours", "1"]
    answer = json.loads(run(*words, "--json", "--table", str(tmp_path / "s.csv")))
    assert answer["conditions"] == {
        "placement": "packed",
        "gpus_per_node": 8,
        "migrate": True,
        "quotas": {"research": 8, "product": 8},
        "gpu_mtbf_hours": 200.0,
        "repair_hours": 1.0,
        "checkpoint_gb_per_s": 5.0,
        "checkpoint_bytes": {"gpt3-1.3b 64": pytest.approx(1.316e9 * 14, rel=0.01)},
    }
    assert answer["restart_seconds"] is None
    assert {"fragmented_share", "stranded_share", "migrations", "failures"} <= set(answer["policies"]["fifo"])
    assert {(row["policy"], row["tenant"], row["quota"]) for row in answer["tenants"]} == {
        (policy, tenant, 8) for policy in ("fifo", "priority", "gandiva") for tenant in ("research", "product")
    }
    with (tmp_path / "s.csv").open() as table:
        rows = [row for row in csv.DictReader(table) if row["policy"] == "fifo"]
    assert {row["job_id"]: row["nodes"] for row in rows}["a"] == "0:8"
    text = run(*words)
    for word in ("placement packed", "quotas, GPUs: research 8", "failures: of a GPU every 200 h", "at 5 GB/s a node"):
        assert word in text
    assert max(len(line) for line in text.splitlines() if "  " in line) <= 80


def test_the_page_shows_nodes_and_tenants(trace: Path) -> None:
    result = vt.schedule(
        cluster="dgx-a100-80gb", num_gpus=16, trace=trace, policies="fifo,elastic-plans", placement="packed"
    )
    built = page_of_fleet(result)
    assert [section.title for section in built.sections] == ["Policies", "Nodes", "Tenants", "Who runs when"]
    blocks = built.sections[-1].rows
    assert {row["nodes"] for row in blocks if row["job"] == "d" and row["policy"] == "fifo"} == {"0:8,1:4"}
    assert any("whole nodes" in note for note in built.notes)


def test_a_failure_is_of_the_same_time_under_every_policy_and_another_of_another_seed(trace: Path) -> None:
    words = ["--trace", str(trace), "--policies", "fifo,priority", "--placement", "packed", "--gpu-mtbf-hours", "20"]
    several = json.loads(run(*words, "--seeds", "1,2,3", "--json"))
    assert several["policies"]["fifo"]["traces"] == 3
    assert several["policies"]["fifo"]["spread"]["makespan_s"] > 0
    assert json.loads(run(*words, "--seeds", "2", "--json")) == json.loads(run(*words, "--seeds", "2", "--json"))


def test_restarts_are_as_long_as_the_checkpoint(trace: Path) -> None:
    words = ["--trace", str(trace), "--policies", "priority", "--json"]
    plain = json.loads(run(*words))
    assert plain["restart_seconds"] == 60.0
    slow = json.loads(run(*words, "--checkpoint-bandwidth", "0.05"))
    hours = [answer["policies"]["priority"]["restart_gpu_hours"] for answer in (plain, slow)]
    # 18.4 GB at 50 MB/s on each node, written and read: 740 s on one, beside the minute.
    assert hours[1] > 3 * hours[0] > 0


def test_quotas_are_words_or_a_file(tmp_path: Path) -> None:
    assert quotas_of("a=256, b=128") == quotas_of({"a": 256, "b": 128}) == {"a": 256, "b": 128}
    (tmp_path / "quotas.txt").write_text("# of the cluster\na=256\nb=128  # lent\n")
    assert quotas_of(tmp_path / "quotas.txt") == {"a": 256, "b": 128}
    assert quotas_of(None) == quotas_of("") == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--placement", "tight"], "--placement is 'tight'"),
        (["--migrate"], "--migrate needs --placement"),
        (["--migrate", "--placement", "consolidated"], "--migrate does nothing with --placement consolidated"),
        (["--gpu-mtbf-hours", "1000"], "--gpu-mtbf-hours needs --placement"),
        (["--repair-hours", "2"], "--repair-hours needs --gpu-mtbf-hours"),
        (["--placement", "packed", "--gpu-mtbf-hours", "1000", "--repair-hours", "0"], "--repair-hours is 0"),
        (["--checkpoint-bandwidth", "-1"], "--checkpoint-bandwidth is -1"),
        (["--checkpoint-bandwidth", "2", "--restart-seconds", "9"], "both say how long a restart takes"),
        (["--quotas", "research"], "cannot read research"),
        (["--quotas", "research=x"], "--quotas has 'x' for tenant 'research'"),
        (["--quotas", "research=4,research=5"], "--quotas has tenant 'research' twice"),
        (["--quotas", "research=400"], "--quotas are 400 GPUs together, more than the 16"),
        (["--quotas", "reserch=4"], "--quotas has tenant 'reserch'.*the jobs have product, research"),
        (["--quotas", "research=4", "--policies", "fifo,pollux"], "pollux choose their own: give --policies fifo"),
        (["--policies", "fifo,tiresia"], "--policies has 'tiresia'.*did you mean 'tiresias'"),
        (["--trace-format", "philly"], "is not a cluster_job_log of Philly"),
        (["--no-deadlines", "--load", "2"], "--load and --no-deadlines say how a random trace is made"),
        (["--models", "gpt3-1.3b"], "the jobs of this one say"),
    ],
)
def test_what_cannot_be_is_one_sentence(trace: Path, words: list[str], message: str) -> None:
    policies = [] if "--policies" in words else ["--policies", "fifo"]
    with pytest.raises(UserError, match=message):
        run("--trace", str(trace), *policies, *words)
