"""How searches and simulations of clusters grow, against a baseline of the same run."""

from __future__ import annotations

import itertools
import math
import resource
from dataclasses import replace

import pytest

from benchmarks.timing import in_turn, seconds
from simulator.test_plan import projector
from vtrain_sim.decide import Bounds, Request, plan
from vtrain_sim.decide.executors import Workers
from vtrain_sim.decide.fleet import Conditions, Job, SpeedTable, generate, placement, policies, simulate
from vtrain_sim.decide.fleet.jobs import offered_gap_s
from vtrain_sim.decide.search.space import Space
from vtrain_sim.decide.study import read_study, run_study
from vtrain_sim.inputs import presets
from vtrain_sim.specs import TrainSpec

# How many times more processor time a study takes in two processes.
PROCESSES_COST = 1.6
# How many times less a candidate of a search costs than evaluating it.
SEARCHED_FASTER = 10
# How many times less a plan costs than projecting it from scratch.
FASTER_THAN_PROJECTIONS = 4


def test_plans_of_mt_nlg(benchmark) -> None:
    """The whole space up to a number of GPUs, estimating and loading included; baseline: one projection at a time."""
    lines = []
    for gpus in (840, 1680, 3360):
        request = Request(presets.model("mt-nlg-530b"), (1920,), 270e9, max_gpus=gpus)
        chosen = plan(request, projector())
        lines.append((gpus, chosen.candidates, chosen.evaluated, chosen.elapsed_s))
    benchmark.pedantic(lambda: None, rounds=1)
    configuration = chosen.plans[0].projection.configuration
    whole_s, twenty_s = in_turn(
        lambda: plan(request, projector()), lambda: [projector().project(configuration) for _ in range(20)], rounds=1
    )
    each_s, one_s = whole_s / chosen.candidates, twenty_s / 20
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("\nGPUs up to  candidates  projected  seconds")
    for line in lines:
        print("{:10,} {:11,} {:10,} {:8.2f}".format(*line))
    print(
        f"{each_s * 1e6:.0f} us a candidate, {one_s / each_s:.0f} times faster than projecting each from scratch; "
        f"peak {memory:.0f} MiB"
    )
    assert one_s > FASTER_THAN_PROJECTIONS * each_s
    # A space that is several times as large takes no more than that: nothing grows faster than the plans.
    (_, few, _, short_s), (_, many, _, long_s) = lines[0], lines[-1]
    assert many > few
    assert long_s < 4 * short_s * many / few


TABLES = {
    ("a", 1): SpeedTable((8, 16, 32, 64, 128), (10.0, 5.5, 3.0, 1.8, 1.2)),
    ("b", 1): SpeedTable((32, 64, 128, 256, 512), (8.0, 4.2, 2.4, 1.5, 1.0)),
}
SPEEDS = {kind: dict(zip(t.gpus, t.seconds, strict=True)) for kind, t in TABLES.items()}
GPUS = 1024
# Times more jobs take no more than so many times the time that their number would.
LINEAR = 2.0


def test_a_million_candidates_of_deepseek_v3(benchmark) -> None:
    """A search by bounds, against evaluating a part of its candidates: seconds for each of them."""
    bounds = Bounds(choices=("default", "optimizer-state"))
    base = TrainSpec(1, 1, params_dtype="bfloat16")
    request = Request(presets.model("deepseek-v3"), (15360,), num_gpus=(2048,), bounds=bounds, base=base)
    cold, evaluating = projector("dgx-h100"), projector("dgx-h100")
    chosen = plan(request, cold, top=10)
    space = Space(request.model, (2048,), request.batches, bounds, base)
    some = list(itertools.islice(space.configurations(), 3000))
    some_s = seconds(lambda: evaluating.evaluate(some))
    benchmark.pedantic(lambda: None, rounds=1)
    each_s, evaluated_s = chosen.elapsed_s / chosen.candidates, some_s / len(some)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"\n{chosen.candidates:,} candidates in {chosen.elapsed_s:.1f} s ({chosen.evaluated:,} projected): "
        f"{each_s * 1e6:.0f} us each, {evaluated_s / each_s:.0f} times less than evaluating them "
        f"({evaluated_s * 1e6:.0f} us); peak {memory:.0f} MiB"
    )
    assert chosen.candidates > 1_000_000
    assert evaluated_s > SEARCHED_FASTER * each_s


def test_a_study_in_processes(benchmark, tmp_path) -> None:
    """What processes cost: processor time of a study in two of them, their start included, over that in this one."""
    study = tmp_path / "study.toml"
    study.write_text(
        'models = ["gpt3-1.3b", "llama3-8b"]\nclusters = ["dgx-a100-80gb", "dgx-h100"]\n'
        "global_batch_sizes = [64, 128]\nnum_gpus = [64, 128]\n"
    )
    units, places = read_study(study), itertools.count()
    two_s, here_s = in_turn(
        lambda: run_study(units, tmp_path / str(next(places)), Workers(processes=2)),
        lambda: run_study(units, tmp_path / str(next(places))),
        rounds=1,
    )
    benchmark.pedantic(lambda: None, rounds=1)
    print(
        f"\n{len(units)} units: {here_s:.1f} s here, {two_s:.1f} s in two processes, {two_s / here_s:.2f} times as much"
    )
    assert two_s < PROCESSES_COST * here_s


def _jobs(count: int, load: float, dated: bool = True) -> list[Job]:
    jobs = generate(count, 1, SPEEDS, offered_gap_s(SPEEDS, GPUS, load, 12.0))
    return jobs if dated else [replace(job, deadline_s=math.inf) for job in jobs]


def _grows(name: str, counts: tuple[int, int, int], conditions: Conditions, load: float, dated: bool) -> None:
    """Seconds by number of jobs, which grow as it."""
    times = []
    for count in counts:
        jobs = _jobs(count, load, dated)
        policy = policies.get(name)
        times.append(
            seconds(lambda jobs=jobs, policy=policy: simulate(jobs, TABLES, GPUS, policy, 60.0, conditions=conditions))
        )
    print(f"{name:18}" + "".join(f"{t:12.2f} s" for t in times))
    assert times[2] < LINEAR * counts[2] / counts[1] * times[1]


@pytest.mark.parametrize(
    ("placed", "load", "dated"), [("ideal", 1.0, True), ("packed", 1.0, True), ("ideal", 4.0, False)]
)
def test_jobs_on_one_cluster(placed: str, load: float, dated: bool) -> None:
    """Seconds of simulation by number of jobs and policy: in a queue that empties, on nodes, and in one that grows."""
    conditions = Conditions(placement=placement.get(placed), gpus_per_node=8)
    counts = (1000, 3000, 10_000)
    print(f"\n{placed}, load {load:g}  " + "".join(f"{n:>9,} jobs" for n in counts))
    for name in policies.names():
        _grows(name, counts, conditions, load, dated)


def test_many_jobs_on_one_cluster(benchmark) -> None:
    """100,000 jobs under the five usual policies; baseline: a tenth of them."""
    few, many = _jobs(10_000, 1.0), _jobs(100_000, 1.0)

    def all_of(jobs: list[Job]) -> None:
        for name in policies.USUAL:
            simulate(jobs, TABLES, GPUS, policies.get(name), 60.0)

    few_s, many_s = seconds(lambda: all_of(few)), seconds(lambda: all_of(many))
    print(f"\n10,000 jobs x 5 policies {few_s:.1f} s, 100,000 jobs {many_s:.1f} s")
    benchmark.pedantic(all_of, args=(few[:1000],), rounds=1)
    assert many_s < LINEAR * 10 * few_s
