"""How searches and simulations of clusters grow; nothing is asserted about speed."""

from __future__ import annotations

import resource
import time

from simulator.test_plan import projector
from vtrain_sim.decide import Request, plan
from vtrain_sim.decide.fleet import POLICIES, SpeedTable, generate, simulate
from vtrain_sim.decide.fleet.jobs import offered_gap_s
from vtrain_sim.inputs import presets


def test_plans_of_mt_nlg(benchmark) -> None:
    """The whole space up to a number of GPUs, estimating and loading included; baseline: one projection at a time."""
    lines = []
    for gpus in (840, 1680, 3360):
        request = Request(presets.model("mt-nlg-530b"), (1920,), 270e9, max_gpus=gpus)
        found = plan(request, projector())
        lines.append((gpus, found.evaluated, found.feasible, found.elapsed_s))
    request = Request(presets.model("mt-nlg-530b"), (1920,), 270e9, max_gpus=3360)
    found = benchmark.pedantic(lambda: plan(request, projector()), rounds=3)
    model = projector()
    configuration = found.plans[0].projection.configuration
    for _ in range(5):
        model.project(configuration)
    begin = time.perf_counter()
    for _ in range(20):
        model.project(configuration)
    one = (time.perf_counter() - begin) / 20
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("\nGPUs up to  evaluated  feasible  seconds")
    for line in lines:
        print("{:10,} {:10,} {:9,} {:8.2f}".format(*line))
    each = benchmark.stats.stats.median / found.evaluated
    print(
        f"{each * 1e6:.0f} us a plan, {one / each:.0f} times faster than projecting one after another; peak {memory:.0f} MiB"
    )


def test_jobs_on_one_cluster(benchmark) -> None:
    """Seconds of simulation by number of jobs and policy."""
    tables = {
        ("a", 1): SpeedTable((8, 16, 32, 64, 128), (10.0, 5.5, 3.0, 1.8, 1.2)),
        ("b", 1): SpeedTable((32, 64, 128, 256, 512), (8.0, 4.2, 2.4, 1.5, 1.0)),
    }
    speeds = {kind: dict(zip(t.gpus, t.seconds, strict=True)) for kind, t in tables.items()}
    gap = offered_gap_s(speeds, 1024, 1.0, 12.0)
    print("\npolicy            " + "".join(f"{n:>9,} jobs" for n in (1000, 3000, 10_000)))
    for name, policy in POLICIES.items():
        times = []
        for count in (1000, 3000, 10_000):
            jobs = generate(count, 1, speeds, gap)
            begin = time.perf_counter()
            simulate(jobs, tables, 1024, policy, 60.0)
            times.append(time.perf_counter() - begin)
        print(f"{name:18}" + "".join(f"{t:12.2f} s" for t in times))
    benchmark.pedantic(
        simulate, args=(generate(1000, 1, speeds, gap), tables, 1024, POLICIES["elastic-plans"]), rounds=1
    )
