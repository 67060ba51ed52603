"""``vtrain-sim schedule``: whatever the trace and the policy, GPUs are not used twice and no work is lost."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from simulator.api.workplace import furnish
from vtrain_sim.api.machine import machine_of
from vtrain_sim.api.workloads import workloads_of
from vtrain_sim.commands.sim import app
from vtrain_sim.decide.fleet import Job, Outcome, SpeedTable, generate, policies, project_speeds, read_trace, simulate
from vtrain_sim.decide.fleet.elastic import admit, allocate
from vtrain_sim.decide.fleet.jobs import offered_gap_s
from vtrain_sim.decide.fleet.requests import counts_to_plan
from vtrain_sim.decide.fleet.running import Running, Site
from vtrain_sim.errors import UserError
from vtrain_sim.report.files import write_rows
from vtrain_sim.results import Table

CAPACITY = 32
TABLES = {
    ("a", 1): SpeedTable((1, 2, 4, 8, 16), (10.0, 5.5, 3.0, 1.8, 1.2)),
    ("b", 1): SpeedTable((4, 8, 16, 32), (8.0, 4.2, 2.4, 1.5)),
}


@st.composite
def traces(draw: st.DrawFn) -> list[Job]:
    jobs = []
    for number in range(draw(st.integers(1, 14))):
        model = draw(st.sampled_from("ab"))
        arrival = draw(st.floats(0, 500))
        deadline = draw(st.one_of(st.just(math.inf), st.floats(1, 4000).map(lambda d, a=arrival: a + d)))
        jobs.append(
            Job(f"j{number}", arrival, model, 1, draw(st.integers(1, 300)), draw(st.sampled_from([4, 8, 16])), deadline)
        )
    return jobs


@settings(max_examples=150, deadline=None)
@given(traces(), st.sampled_from(policies.names()), st.sampled_from([0.0, 5.0, 60.0]))
def test_invariants(jobs: list[Job], name: str, restart_s: float) -> None:
    outcome = simulate(jobs, TABLES, CAPACITY, policies.get(name), restart_s)
    again = simulate(jobs, TABLES, CAPACITY, policies.get(name), restart_s)
    assert outcome == again
    by_job = defaultdict(list)
    for stretch in outcome.stretches:
        by_job[stretch.job_id].append(stretch)
        assert stretch.start_s <= stretch.resume_s <= stretch.end_s
    for job in jobs:
        own = by_job[job.job_id]
        if job.job_id in outcome.rejected:
            assert not own
            continue
        # Work is conserved: what the stretches trained is the job, on GPUs that it can use, after it came.
        assert sum(s.iterations for s in own) == pytest.approx(job.iterations, rel=1e-6, abs=1e-5)
        assert {s.gpus for s in own} <= set(TABLES[job.model, 1].gpus)
        assert min(s.start_s for s in own) >= job.arrival_s
        assert outcome.finished_s[job.job_id] == pytest.approx(max(s.end_s for s in own))
        for one, two in itertools.pairwise(own):
            assert one.end_s <= two.start_s
            assert two.resume_s - two.start_s == pytest.approx(min(restart_s, two.end_s - two.start_s))
    assert set(outcome.finished_s) | set(outcome.rejected) == {j.job_id for j in jobs}
    # No GPU is used twice at any time.
    for moment in {s.start_s for s in outcome.stretches}:
        assert sum(s.gpus for s in outcome.stretches if s.start_s <= moment < s.end_s) <= CAPACITY


@st.composite
def speed_curves(draw: st.DrawFn) -> SpeedTable:
    """Any numbers of GPUs, few of them perhaps; more GPUs may be slower, or faster by more than their number."""
    counts = draw(st.lists(st.integers(1, CAPACITY), min_size=1, max_size=6, unique=True))
    return SpeedTable(tuple(sorted(counts)), tuple(draw(st.floats(0.1, 20)) for _ in counts))


@st.composite
def loaded_traces(draw: st.DrawFn) -> tuple[list[Job], dict[tuple[str, int], SpeedTable]]:
    """Up to 30 jobs, all at once or seldom, with deadlines from hopeless to easy; some have none."""
    tables = {(model, 1): draw(speed_curves()) for model in "abc"}
    gap = draw(st.sampled_from([0.0, 1.0, 20.0, 300.0]))
    jobs = []
    arrival = draw(st.sampled_from([0.0, 1e7]))
    for number in range(draw(st.integers(1, 30))):
        arrival += gap * draw(st.floats(0, 2))
        model, iterations = draw(st.sampled_from("abc")), draw(st.integers(1, 300))
        alone = iterations * min(tables[model, 1].seconds)
        room = draw(st.one_of(st.floats(0.5, 1.5), st.floats(1, 20), st.just(1.0), st.just(math.inf)))
        jobs.append(Job(f"j{number}", arrival, model, 1, iterations, 1, arrival + alone * room))
    return jobs, tables


@settings(max_examples=400, deadline=None)
@given(loaded_traces(), st.sampled_from([0.0, 0.1, 5.0, 60.0, 1000.0]))
def test_an_admitted_job_is_never_late(
    trace: tuple[list[Job], dict[tuple[str, int], SpeedTable]], restart_s: float
) -> None:
    jobs, tables = trace
    outcome = simulate(jobs, tables, CAPACITY, policies.get("elastic-plans"), restart_s)
    for job in jobs:
        if math.isinf(job.deadline_s):
            assert job.job_id in outcome.finished_s
        elif job.job_id not in outcome.rejected:
            assert outcome.finished_s[job.job_id] <= job.deadline_s * (1 + 1e-12)
    for moment in {s.start_s for s in outcome.stretches}:
        assert sum(s.gpus for s in outcome.stretches if s.start_s <= moment < s.end_s) <= CAPACITY


@pytest.mark.parametrize("load", [1.0, 2.0, 4.0, 8.0])
def test_long_traces_are_never_late(load: float) -> None:
    """Heavy-tailed jobs at and above what the cluster can do; restarts cost five minutes."""
    speeds = {kind: dict(zip(t.gpus, t.seconds, strict=True)) for kind, t in TABLES.items()}
    jobs = generate(300, 5, speeds, offered_gap_s(speeds, CAPACITY, load, 1.0), 1.0)
    outcome = simulate(jobs, TABLES, CAPACITY, policies.get("elastic-plans"), 300.0)
    assert outcome.rejected
    assert [j for j in jobs if outcome.finished_s.get(j.job_id, 0.0) > j.deadline_s] == []
    assert outcome.late == ()
    assert max(Counter(s.job_id for s in outcome.stretches).values()) > 2


def shares(jobs: list[tuple[float, float, str]], restart_s: float = 0.0) -> list[list[tuple[float, int]]]:
    """What is reserved for jobs (iterations, deadline, model) that come one after the other: until when, GPUs."""
    site, admitted = Site(CAPACITY, restart_s), []
    for number, (iterations, deadline, model) in enumerate(jobs):
        table = TABLES[model, 1]
        job = Job(f"x{number}", 0.0, model, 1, 1, 1, deadline)
        new = Running(
            job, table, iterations, 1, site.place(table), index=dict(zip(table.gpus, table.seconds, strict=True))
        )
        if admit(admitted, new, 0.0, site):
            admitted.append(new)
    counts = [0 if place < 0 else int(site.gpus[place]) for r in admitted for place in r.steps]
    ends = [end for r in admitted for end in r.steps_s]
    steps = iter(zip(ends, counts, strict=True))
    return [[next(steps) for _ in r.steps] for r in admitted]


def test_minimum_satisfactory_shares_by_hand() -> None:
    """100 iterations in 550 s take 2 GPUs (5.5 s each), in 540 s take 4."""
    assert shares([(100, 550.0, "a")]) == [[(550.0, 2)]]
    assert shares([(100, 540.0, "a")]) == [[(300.0, 4)]]
    # Two jobs that each need all 32 GPUs by the same time: only one can have them.
    assert shares([(100, 150.0, "b"), (100, 150.0, "b")]) == [[(150.0, 32)]]
    # The second one may wait until the first has ended.
    assert shares([(100, 150.0, "b"), (100, 300.0, "b")]) == [[(150.0, 32)], [(150.0, 0), (300.0, 32)]]
    # 8 GPUs beside the first two, then 32, if a restart of 5 s leaves the time: 180 / 4.2 of the 100 iterations, and
    # the others at 1.5 s each.
    first = [(150.0, 181.0, "a"), (100.0, 181.0, "a")]
    end = pytest.approx(180 + 5 + (100 - 180 / 4.2) * 1.5)
    assert shares([*first, (100, 271.0, "b")], 5.0)[2] == [(pytest.approx(180.0), 8), (end, 32)]
    assert len(shares([*first, (100, 270.0, "b")], 5.0)) == 2


def test_a_restart_that_would_break_a_deadline_is_not_made() -> None:
    """A job on 8 GPUs that is alone could have 16; growing takes longer than it saves, or than there is."""
    table = TABLES["a", 1]
    for restart_s, gpus in ((1.0, 16), (40.0, 8), (100.0, 8)):
        site = Site(CAPACITY, restart_s)
        job = Job("x", 0.0, "a", 1, 100, 8, 180.0)
        index = dict(zip(table.gpus, table.seconds, strict=True))
        one = Running(job, table, 100.0, 8, site.place(table), 8, 0.0, True, index, [180.0], [site.place(table) + 3])
        assert allocate([one], 0.0, site) == [(one, gpus)]


def test_faster_plans_end_no_later_on_the_whole() -> None:
    """The same trace and policy with speeds that are better everywhere: completion and makespan fall."""
    speeds = {kind: dict(zip(t.gpus, t.seconds, strict=True)) for kind, t in TABLES.items()}
    faster = {kind: SpeedTable(t.gpus, tuple(0.8 * s for s in t.seconds)) for kind, t in TABLES.items()}
    jobs = [Job(**{**vars(j), "deadline_s": math.inf}) for j in generate(60, 3, speeds, 200.0, 0.5)]
    slow, fast = (simulate(jobs, t, CAPACITY, policies.get("elastic-plans"), 5.0) for t in (TABLES, faster))
    assert np.mean(fast.completion_s) < np.mean(slow.completion_s)
    assert fast.makespan_s <= slow.makespan_s


def test_first_in_first_out_by_hand() -> None:
    jobs = [Job("x", 0.0, "a", 1, 10, 16), Job("y", 1.0, "b", 1, 10, 32), Job("z", 2.0, "a", 1, 10, 4)]
    outcome: Outcome = simulate(jobs, TABLES, CAPACITY, policies.get("fifo"), 0.0)
    # y waits for all 32 GPUs, and z behind it.
    assert outcome.finished_s == pytest.approx({"x": 12.0, "y": 12.0 + 15.0, "z": 27.0 + 30.0})
    figures = outcome.to_dict(price_per_gpu_hour=3600.0)
    assert figures["makespan_s"] == pytest.approx(57.0)
    assert figures["cost_usd"] == pytest.approx(16 * 12 + 32 * 15 + 4 * 30)
    assert figures["deadline_satisfactory_ratio"] is None
    dated = [Job("x", 0.0, "a", 1, 10, 16, 12.0), Job("y", 1.0, "b", 1, 10, 32, 20.0)]
    outcome = simulate(dated, TABLES, CAPACITY, policies.get("fifo"), 0.0)
    assert (outcome.late, outcome.deadline_satisfactory_ratio) == (("y",), 0.5)


def test_generated_traces_repeat_and_can_be_written_and_read(tmp_path: Path) -> None:
    speeds = {kind: dict(zip(t.gpus, t.seconds, strict=True)) for kind, t in TABLES.items()}
    jobs = generate(50, 7, speeds, 100.0)
    assert jobs == generate(50, 7, speeds, 100.0)
    assert jobs != generate(50, 8, speeds, 100.0)
    for name in ("t.csv", "t.parquet"):
        write_rows(tmp_path / name, Table("trace", [job.to_row() for job in jobs]))
        assert read_trace(tmp_path / name) == jobs


HEADER = "job_id,arrival_s,model,global_batch_size,iterations,gpus,deadline_s"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("job_id,arrival_s\nx,1\n", "no column model"),
        (f"{HEADER}\n", "no jobs"),
        (f"{HEADER}\nx,1,a,1,10,4,\nx,1,a,1,10,4,\n", "same job_id"),
        (f"{HEADER}\nx,5,a,1,10,4,3\n", "not after its arrival"),
        (f"{HEADER}\nx,1,a,1,0,4,\n", "iterations is 0"),
        (f"{HEADER}\nx,-1,a,1,1,4,\n", "arrival_s is -1"),
        (f"{HEADER}\nx,,a,1,1,4,\n", "arrival_s is empty"),
        (f"{HEADER}\nx,1,a,many,1,4,\n", "row 1: global_batch_size is .many.: it takes a whole number"),
        (f"{HEADER}\nx,soon,a,1,1,4,\n", "row 1: arrival_s is .soon.: it takes a number"),
        (f"{HEADER}\nx,1,a,1,1.5,4,\n", "row 1: iterations is .1.5.: it takes a whole number"),
        (f"{HEADER}\nx,1,a,1,true,4,\n", "row 1: iterations is .true.: it takes a whole number"),
        (f"{HEADER}\nx,1,a,1,1e300,4,\n", "row 1: job 'x': iterations is 1e.300: it takes a whole number from 1 to"),
        (f"{HEADER}\nx,1e300,a,1,1,4,\n", "row 1: job 'x': arrival_s is 1e.300: it takes a number from 0 to"),
        (f"{HEADER}\nx,inf,a,1,1,4,\n", "row 1: job 'x': arrival_s is inf: it takes a number from 0 to"),
        (f"{HEADER},priority\nx,1,a,1,1,4,,1e300\n", "row 1: job 'x': priority is 1e.300: it takes a whole number"),
        (f"{HEADER[:-2]}\nx,1,a,1,1,4,5\n", "has a column deadline: did you mean deadline_s"),
    ],
)
def test_malformed_traces_are_one_sentence(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=word):
        read_trace(tmp_path / "t.csv")


def test_cells_of_a_trace_are_read_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"{HEADER}\n007,1,a,1,1e2,4.0,inf\n7,2,a,1,10,4,\n")
    first, second = read_trace(tmp_path / "t.csv")
    assert (first.job_id, first.iterations, first.gpus, first.deadline_s) == ("007", 100, 4, math.inf)
    assert second.job_id == "7"


def test_jobs_that_can_never_run_are_named() -> None:
    with pytest.raises(UserError, match="'x' can never run"):
        simulate([Job("x", 0.0, "b", 1, 1, 1, max_gpus=2)], TABLES, CAPACITY, policies.get("fifo"))


def test_command_prints_the_documented_json(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app,
        [
            "schedule",
            "--cluster",
            "dgx-a100-80gb",
            "--num-gpus",
            "64",
            "--jobs",
            "12",
            "--models",
            "gpt3-1.3b",
            "--global-batch-size",
            "64",
            "--seeds",
            "1,2",
            "--json",
            "--plot",
            str(tmp_path / "g.svg"),
            "--save-trace",
            str(tmp_path / "t.parquet"),
            "--table",
            str(tmp_path / "s.csv"),
        ],
    )
    assert done.exit_code == 0, done.exception
    answer = json.loads(done.stdout)
    assert answer["schema"] == "vtrain.schedule/1"
    assert set(answer["policies"]) == set(policies.USUAL)
    for figures in answer["policies"].values():
        needed = {"deadline_satisfactory_ratio", "mean_jct_s", "p95_jct_s", "makespan_s", "gpu_utilisation"}
        assert needed <= set(figures)
        assert 0 < figures["gpu_utilisation"] <= 1
        assert figures["traces"] == 2
    assert len(read_trace(tmp_path / "t.parquet")) == 12
    assert "<svg" in (tmp_path / "g.svg").read_text()
    refused = CliRunner().invoke(app, ["schedule", "--cluster", "dgx-a100-80gb", "--num-gpus", "8"])
    assert isinstance(refused.exception, UserError)


def test_jobs_are_of_scripts_specs_and_runs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    command = ["schedule", "--cluster", "dgx-a100-80gb", "--num-gpus", "4", "--policies", "fifo", "--json"]
    models = ["--models", "train.sh,job.yaml,run:base", "--catalog", "vtrain.duckdb", "--jobs", "12"]
    done = CliRunner().invoke(app, [*command, *models, "--save-trace", "t.csv"])
    assert done.exit_code == 0, (done.output, done.exception)
    jobs = {(j.model, j.global_batch_size) for j in read_trace(tmp_path / "t.csv")}
    assert jobs == {("train.sh", 16), ("job.yaml", 16), ("run:base", 4)}
    assert "note: train.sh: searched" in done.stderr
    # The trace that was written names them, and is read back.
    again = CliRunner().invoke(app, [*command, "--trace", "t.csv", "--catalog", "vtrain.duckdb"])
    assert json.loads(again.stdout)["policies"] == json.loads(done.stdout)["policies"]
    with pytest.raises(UserError, match="--catalog"):
        CliRunner().invoke(app, [*command, "--trace", "t.csv"], catch_exceptions=False)


def test_the_training_step_of_a_job_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full recomputation makes the same model slower."""
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    text = (tmp_path / "train.sh").read_text()
    (tmp_path / "full.sh").write_text(text.replace("--micro", "--recompute-granularity full --micro"))
    read = workloads_of(["train.sh", "full.sh"])
    counts = {("train.sh", 16): (1, 2, 4), ("full.sh", 16): (1, 2, 4)}
    best = project_speeds(counts, machine_of("dgx-a100-80gb").projector, workloads=read).best
    assert best["full.sh", 16].seconds[-1] > 1.2 * best["train.sh", 16].seconds[-1]


def test_a_job_has_the_gpus_that_it_requests_or_it_is_said(tmp_path: Path) -> None:
    trace = tmp_path / "jobs.csv"
    trace.write_text(
        "job_id,arrival_s,model,global_batch_size,iterations,gpus\nsmall,0,gpt3-1.3b,64,5,6\nlarge,1,gpt3-1.3b,64,5,16\n"
    )
    command = ["schedule", "--cluster", "dgx-a100-80gb", "--trace", str(trace), "--policies"]
    with pytest.raises(UserError, match=r"job 'large' requests 16 GPUs, the cluster has 8 .*edf would .*elastic-plans"):
        CliRunner().invoke(app, [*command, "edf,elasticflow", "--num-gpus", "8"], catch_exceptions=False)
    chosen = CliRunner().invoke(app, [*command, "elastic-plans", "--num-gpus", "8"])
    assert chosen.exit_code == 0
    assert "requests" not in chosen.stderr
    # 6 GPUs are planned because a job requests them; no layout of this batch on 5 is faster than on 4.
    assert stretches(trace, "--num-gpus", "24") == {"small": 6, "large": 16}
    trace.write_text(trace.read_text().replace(",6\n", ",5\n"))
    rounded = CliRunner().invoke(app, [*command, "edf", "--num-gpus", "16"])
    assert rounded.exit_code == 0
    assert "job 'small' requests 5 GPUs and trains on 4 (edf)" in " ".join(rounded.stderr.split())


def stretches(trace: Path, *more: str) -> dict[str, int]:
    """GPUs by job, under earliest deadline first."""
    arguments = ["schedule", "--cluster", "dgx-a100-80gb", "--trace", str(trace), "--policies", "edf", *more]
    done = CliRunner().invoke(app, [*arguments, "--table", str(trace.with_name("s.csv"))])
    assert done.exit_code == 0
    assert "requests" not in done.stderr
    with trace.with_name("s.csv").open() as table:
        return {row["job_id"]: int(row["gpus"]) for row in csv.DictReader(table)}


def test_numbers_of_gpus_that_are_planned() -> None:
    """Powers of two, the whole cluster, and what jobs name; or those given."""
    kind = ("a", 1)
    job = Job("x", 0.0, "a", 1, 1, 6, min_gpus=3, max_gpus=40)
    assert counts_to_plan([kind], [], 24, ()) == {kind: (1, 2, 4, 8, 16, 24)}
    assert counts_to_plan([kind], [job], 24, ()) == {kind: (1, 2, 3, 4, 6, 8, 16, 24)}
    assert counts_to_plan([kind], [job], 48, (12,)) == {kind: (3, 6, 12, 40)}
    with pytest.raises(UserError, match="--gpu-counts has 32, more than the 24 GPUs"):
        counts_to_plan([kind], [], 24, (8, 32))


def test_a_plan_is_replicated_only_where_whole_copies_fill_the_gpus() -> None:
    """On one A100 with 80 GB 6.7 billion parameters do not fit: the smallest layout has several GPUs."""
    kind = ("gpt3-6.7b", 96)
    speeds = project_speeds({kind: (2, 3, 4, 5, 6, 8, 12)}, machine_of("dgx-a100-80gb").projector)
    best, scaled = speeds.best, speeds.scaled
    assert {2, 4, 6} <= set(best[kind].gpus)
    assert set(scaled[kind].gpus) <= {2, 4, 6, 8, 12}
    assert 6 in scaled[kind].gpus
