"""Speed as ratios against a named baseline in the same run; nothing is asserted about speed."""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import SCRIPT, run_python
from simulator.test_replay import brute_force
from vtrain_sim.costs import CollectiveCosts, OperatorCosts
from vtrain_sim.costs.surfaces import DeviceSurface, Surfaces
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.model import Compute, build_step
from vtrain_sim.schedules import schedule
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec

SIZE = (
    "--num-layers",
    "4",
    "--hidden-size",
    "512",
    "--num-attention-heads",
    "8",
    "--seq-length",
    "512",
    "--vocab-size",
    "4096",
    "--global-batch-size",
    "2",
    "--train-iters",
    "50",
    "--pin",
    "--quiet",
)
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


LAYOUTS = {
    "GPT-3 175B on 1,024 GPUs": ("gpt3-175b", 1024, GPT3),
    "MT-NLG 530B on 3,360 GPUs": (
        "mt-nlg-530b",
        3360,
        "--tensor-model-parallel-size 8 --pipeline-model-parallel-size 35 --micro-batch-size 1 "
        "--global-batch-size 1920 --recompute-granularity full --bf16",
    ),
    "Megatron 1T on 3,072 GPUs": (
        "megatron-1t",
        3072,
        "--tensor-model-parallel-size 8 --pipeline-model-parallel-size 64 --sequence-parallel "
        "--use-distributed-optimizer --micro-batch-size 1 --global-batch-size 3072 --bf16",
    ),
}


def brute_force_seconds(model: Projector, configuration: Configuration) -> float:
    """Seconds that the brute-force replay of every operator of every stage takes."""
    step = build_step(configuration)

    def durations(direction: str) -> list[list[list[float]]]:
        return [
            [
                [
                    model.evaluator.estimator.operators.estimate(i.operator).seconds
                    for p, n in chunk
                    for _ in range(n)
                    for i in getattr(p, direction)
                    if isinstance(i, Compute)
                ]
                for chunk in stage.chunks
            ]
            for stage in step.stages
        ]

    parallel = configuration.parallel
    instructions = schedule(configuration.schedule, parallel.pp, parallel.vpp, configuration.num_microbatches)
    forward, backward = durations("forward"), durations("backward")
    begin = time.perf_counter()
    brute_force(instructions, forward, backward, 1e-4, [])
    return time.perf_counter() - begin


@pytest.mark.parametrize("name", LAYOUTS)
def test_one_projection_in_process(benchmark, name: str) -> None:
    """One projection, memory included, operators estimated, against the brute-force operator-level replay."""
    preset, gpus, flags = LAYOUTS[name]
    configuration = configuration_from_flags(flags.split(), None, gpus, presets.model(preset))
    model = projector()
    for _ in range(5):  # from the fourth on the kernels are compiled
        model.project(configuration)
    answer = benchmark(model.project, configuration)
    ours = benchmark.stats.stats.median
    # The largest takes the brute force minutes: an eighth of its microbatches, times eight.
    part = configuration
    share = 1
    while part.num_microbatches * part.parallel.pp * part.model.num_layers > 100_000:
        share *= 2
        batch = part.train.global_batch_size // 2
        part = replace(part, train=replace(part.train, global_batch_size=batch))
    baseline = brute_force_seconds(model, part) * share
    print(
        f"\n{name}: {answer.iteration_time_s:.2f} s projected in {ours * 1e3:.2f} ms, {baseline / ours:,.0f} times "
        f"faster than the brute-force operator-level replay ({baseline:.1f} s)"
    )


def space(model: ModelSpec, gpus: int, batch: int) -> list[Configuration]:
    """Everything that Megatron would run: tensor, pipeline, interleaving, micro batch, recomputation, sharding."""
    found = []
    for tp, pp, vpp, mbs, recompute, sharded in itertools.product(
        (1, 2, 4, 8), (1, 2, 4, 8, 16, 32), (1, 2, 3), (1, 2, 4), ("none", "selective", "full"), (False, True)
    ):
        dp = gpus // (tp * pp)
        with contextlib.suppress(UserError):
            parallel = ParallelSpec(tp, pp, vpp, dp=dp, sequence_parallel=tp > 1, distributed_optimizer=sharded)
            train = TrainSpec(mbs, batch, recompute_granularity=recompute)
            found.append(Configuration(model, replace(parallel, overlap_p2p=vpp > 1), train))
    return found


def test_batch_of_configurations(benchmark) -> None:
    """Many configurations at once, memory check included, against one projection after another."""
    configurations = [c for gpus in (256, 512, 1024, 2048) for c in space(presets.model("gpt3-175b"), gpus, 1536)]
    model = projector()
    begin = time.perf_counter()
    model.evaluate(configurations)
    first = time.perf_counter() - begin
    benchmark(model.evaluate, configurations)
    ours = benchmark.stats.stats.median / len(configurations)
    begin = time.perf_counter()
    for configuration in configurations[::20]:
        model.project(configuration)
    one_by_one = (time.perf_counter() - begin) / len(configurations[::20])
    print(
        f"\n{len(configurations)} configurations: {1 / ours:,.0f} a second on one core ({len(configurations) / first:,.0f} "
        f"with estimating and loading the compiler), {one_by_one / ours:.0f} times faster than one by one"
    )


def test_cost_grows_with_stages_times_microbatches(benchmark) -> None:
    """The curve: one replay by microbatches, layers and GPUs; the last two cost nothing."""
    model = projector()
    base = "--tensor-model-parallel-size 8 --num-layers-per-virtual-pipeline-stage 1 --micro-batch-size 1 --bf16"
    lines = []
    for layers, pp, gpus, microbatches in (
        (96, 8, 64, 64),
        (96, 8, 64, 256),
        (96, 8, 64, 1024),
        (96, 16, 128, 256),
        (96, 32, 256, 256),
        (192, 8, 64, 256),
        (96, 8, 4096, 256),
    ):
        dp = gpus // (8 * pp)
        chunks = layers // pp // 12 if layers // pp > 12 else 1
        flags = base.replace("stage 1", f"stage {chunks}") if pp * chunks * 12 == layers else base
        flags += f" --num-layers {layers} --pipeline-model-parallel-size {pp} --global-batch-size {microbatches * dp}"
        configuration = configuration_from_flags(flags.split(), None, gpus, presets.model("gpt3-175b"))
        for _ in range(4):
            model.evaluate([configuration])
        begin = time.perf_counter()
        for _ in range(10):
            model.evaluate([configuration])
        took = (time.perf_counter() - begin) / 10
        lines.append((layers, pp, configuration.parallel.vpp, gpus, microbatches, took * 1e3))
    benchmark.pedantic(model.evaluate, args=([configuration],), rounds=3)
    print("\nlayers stages chunks  GPUs microbatches  ms")
    for line in lines:
        print("{:6} {:6} {:6} {:5} {:12} {:5.2f}".format(*line))


def test_cold_start_from_the_shell(benchmark) -> None:
    arguments = [
        "-m",
        "vtrain_sim.commands.sim",
        "project",
        "--cluster",
        "dgx-a100-80gb",
        "--model",
        "gpt3-175b",
        "--num-gpus",
        "1024",
        *GPT3.split(),
        "--json",
    ]
    benchmark.pedantic(run_python, args=(arguments,), rounds=5, iterations=1, warmup_rounds=1)
    print(f"\ncold from the shell: {benchmark.stats.stats.median:.2f} s")
