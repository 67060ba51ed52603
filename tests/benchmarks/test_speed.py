"""Speed as ratios against a named baseline in the same run; nothing is asserted about speed."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import pytest

from conftest import SCRIPT, run_python
from simulator.test_replay import brute_force
from vtrain_sim.costs import CollectiveCosts, OperatorCosts
from vtrain_sim.costs.surfaces import DeviceSurface, Surfaces
from vtrain_sim.operators import Compute, build_step
from vtrain_sim.projection import Projector
from vtrain_sim.schedules import schedule
from vtrain_sim.specs import presets
from vtrain_sim.specs.megatron_flags import configuration_from_flags

SIZE = ("--num-layers", "4", "--hidden-size", "512", "--num-attention-heads", "8", "--seq-length", "512", "--vocab-size", "4096",
        "--global-batch-size", "2", "--train-iters", "50", "--pin", "--quiet")  # fmt: skip
GPT3 = (
    "--tensor-model-parallel-size 8 --pipeline-model-parallel-size 16 --num-layers-per-virtual-pipeline-stage 3 "
    "--sequence-parallel --use-distributed-optimizer --micro-batch-size 1 --global-batch-size 1536 --bf16"
)


@pytest.mark.parametrize("mode", ["spans", "operators", "kernels"])
def test_overhead_of_a_capture(benchmark, tmp_path: Path, mode: str) -> None:
    """Steps with and without capture alternate within one process, so that both meet the same machine."""
    script = Path(__file__).with_name("overhead_script.py")
    times = tmp_path / "t.json"

    def measure() -> float:
        # Large tensors from mmap: on the heap, the profiler's small allocations among them fragment
        # it, and what is measured is page faults. (A GPU's tensors are not on the heap.)
        env = {"MALLOC_MMAP_THRESHOLD_": "65536"}
        run_python([str(script), str(SCRIPT), mode, str(times), *SIZE], env=env)
        found = json.loads(times.read_text())
        ratio = statistics.median(found["captured"]) / statistics.median(found["plain"]) - 1
        print(
            f"\n{mode}: {ratio:+.2%} of the step time (baseline: the same process without capture; "
            f"{len(found['captured'])} captured, {len(found['plain'])} plain steps of "
            f"{statistics.median(found['plain']) * 1e3:.0f} ms)"
        )
        return ratio

    benchmark.pedantic(measure, rounds=1, iterations=1)


def projector() -> Projector:
    cluster = presets.cluster("dgx-a100-80gb")
    surfaces = Surfaces.from_dict(presets.cluster_surfaces("dgx-a100-80gb"))
    return Projector(cluster, OperatorCosts(DeviceSurface(cluster.device, surfaces)), CollectiveCosts(cluster))


def test_projection_of_gpt3(benchmark) -> None:
    """One projection in-process, operators priced, against the brute-force operator-level replay."""
    configuration = configuration_from_flags(GPT3.split(), None, 1024, presets.model("gpt3-175b"))
    model = projector()
    model.project(configuration)
    answer = benchmark(model.project, configuration)
    step = build_step(configuration)

    def durations(direction: str) -> list[list[list[float]]]:
        return [
            [
                [model.operators.price(i.operator).seconds for p, n in chunk for _ in range(n)
                 for i in getattr(p, direction) if isinstance(i, Compute)]
                for chunk in stage.chunks
            ]
            for stage in step.stages
        ]  # fmt: skip

    parallel = configuration.parallel
    instructions = schedule(configuration.schedule, parallel.pp, parallel.vpp, configuration.num_microbatches)
    begin = time.perf_counter()
    brute_force(instructions, durations("forward"), durations("backward"), 1e-4)  # type: ignore[arg-type]
    baseline = time.perf_counter() - begin
    ours = benchmark.stats.stats.median
    print(f"\nGPT-3 175B on 1,024 GPUs: {answer.iteration_time_s:.2f} s projected in {ours * 1e3:.1f} ms, "
          f"{baseline / ours:.0f} times faster than the brute-force operator-level replay ({baseline:.2f} s)")  # fmt: skip


def test_cold_start_from_the_shell(benchmark) -> None:
    arguments = ["-m", "vtrain_sim.commands.sim", "project", "--cluster", "dgx-a100-80gb", "--model", "gpt3-175b",
                 "--num-gpus", "1024", *GPT3.split(), "--json"]  # fmt: skip
    benchmark.pedantic(run_python, args=(arguments,), rounds=5, iterations=1, warmup_rounds=1)
    print(f"\ncold from the shell: {benchmark.stats.stats.median:.2f} s")
