"""Speed as ratios against a named baseline of the same run; each fails below a floor.

Floors are a half to a third of what is measured on an idle machine.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from benchmarks.overhead_script import GROUP
from benchmarks.timing import in_turn, median_s, seconds
from conftest import SCRIPT, run_python
from simulator.schedules.brute_force import brute_force
from vtrain_sim.costs.surfaces import Surfaces
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.model import Compute, build_step
from vtrain_sim.schedules import PipelineShape, Placement, get
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec

# Models whose step takes about so long on two cores.
SIZES = {
    "0.01 s": "--num-layers 2 --hidden-size 64 --seq-length 64 --vocab-size 512 --global-batch-size 1",
    "0.1 s": "--num-layers 4 --hidden-size 128 --seq-length 256 --vocab-size 1024 --global-batch-size 2",
    "0.5 s": "--num-layers 4 --hidden-size 256 --seq-length 512 --vocab-size 2048 --global-batch-size 2",
    "1.5 s": "--num-layers 4 --hidden-size 512 --seq-length 512 --vocab-size 4096 --global-batch-size 2",
}
GPT3 = (
    "--tensor-model-parallel-size 8 --pipeline-model-parallel-size 16 --num-layers-per-virtual-pipeline-stage 3 "
    "--sequence-parallel --use-distributed-optimizer --micro-batch-size 1 --global-batch-size 1536 --bf16"
)


# Of a step on a CPU, whose operators are waited for one by one; twice what is measured on an idle machine.
MOST_OVERHEAD = {
    ("operators", "0.01 s"): 0.6,
    ("operators", "0.1 s"): 0.2,
    ("operators", "0.5 s"): 0.1,
    ("operators", "1.5 s"): 0.1,
    ("spans", "1.5 s"): 0.1,
    ("kernels", "1.5 s"): 0.3,
}


@pytest.mark.parametrize(("mode", "size"), MOST_OVERHEAD)
def test_overhead_of_a_capture(benchmark, tmp_path: Path, mode: str, size: str) -> None:
    """Groups of steps with and without capture alternate within one process: both meet the same machine."""
    script = Path(__file__).with_name("overhead_script.py")
    times = tmp_path / "t.json"

    def measure() -> float:
        flags = [*SIZES[size].split(), "--num-attention-heads", "4", "--train-iters", "61", "--pin", "--quiet"]
        run_python([str(script), str(SCRIPT), mode, str(times), *flags])
        times_of = json.loads(times.read_text())
        medians = {kind: statistics.median(of) for kind, of in times_of.items()}
        ratio, after = (medians[kind] / medians["plain"] - 1 for kind in ("captured", "after"))
        print(
            f"\n{mode}: {ratio:+.1%} of a step of {medians['plain'] * 1e3:.0f} ms, and {after:+.1%} of the "
            f"{GROUP} steps after, while it is written (baseline: the same process without capture; "
            f"{len(times_of['captured'])} groups of each)"
        )
        return ratio

    assert benchmark.pedantic(measure, rounds=1, iterations=1) < MOST_OVERHEAD[mode, size]


def projector() -> Projector:
    surfaces = Surfaces.from_dict(presets.cluster_surfaces("dgx-a100-80gb"))
    return Projector.modelled(presets.cluster("dgx-a100-80gb"), surfaces)


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


def operators_at(table: list[list[list[float]]], placement: Placement, place: int) -> list[float]:
    """Durations at a place, from those by stage and chunk."""
    return table[placement.stage_of(place)][placement.chunk_of(place)]


def brute_force_s(model: Projector, configuration: Configuration) -> float:
    """Seconds that the brute-force replay of every operator of every stage takes."""
    step = build_step(configuration)

    def durations(direction: str) -> list[list[list[float]]]:
        return [
            [
                [
                    model.evaluator.operators.estimate(i.operator).seconds * i.share
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
    schedule = get(configuration.schedule)
    shape = PipelineShape(parallel.pp, parallel.vpp, configuration.num_microbatches)
    placement = schedule.placement(shape.stages, shape.chunks)
    instructions = schedule.instructions(shape)
    tables = {"F": durations("forward"), "B": durations("backward")}
    by_place = {kind: partial(operators_at, table, placement) for kind, table in tables.items()}
    places = len(placement.virtual_stage)
    return seconds(lambda: brute_force(instructions, by_place, placement, [1e-4] * places, [0.0] * places))


def in_part(configuration: Configuration, most_passes: int) -> tuple[Configuration, float]:
    """A configuration with so few microbatches that it has about this many layer passes, and how many it stands for."""
    parallel, train = configuration.parallel, configuration.train
    # A number of microbatches that an interleaved schedule takes.
    rounds = max(1, most_passes // (parallel.pp**2 * configuration.model.num_layers))
    microbatches = min(configuration.num_microbatches, rounds * parallel.pp)
    batch = train.micro_batch_size * parallel.dp * microbatches
    part = replace(configuration, train=replace(train, global_batch_size=batch))
    return part, configuration.num_microbatches / microbatches


@pytest.mark.parametrize("name", LAYOUTS)
def test_one_projection_in_process(benchmark, name: str) -> None:
    """One projection, memory included, operators estimated, against the brute-force operator-level replay."""
    preset, gpus, flags = LAYOUTS[name]
    configuration = configuration_from_flags(flags.split(), None, gpus, presets.model(preset))
    model = projector()
    for _ in range(5):  # from the fourth on the kernels are compiled
        model.project(configuration)
    answer = benchmark(model.project, configuration)
    known_s = median_s(lambda: model.project(configuration), 20)
    new_s = median_s(lambda: projector().project(configuration))
    # The largest takes the brute force minutes: a part of its microbatches stands for all.
    part, share = in_part(configuration, 50_000)
    baseline_s = brute_force_s(model, part) * share
    print(
        f"\n{name}: {answer.iteration_time_s:.2f} s projected in {known_s * 1e3:.2f} ms ({new_s * 1e3:.1f} ms with an "
        f"evaluator that knows nothing yet), {baseline_s / known_s:,.0f} ({baseline_s / new_s:,.0f}) times faster than "
        f"the brute-force operator-level replay ({baseline_s:.1f} s)"
    )
    assert baseline_s > 500 * known_s
    assert baseline_s > 100 * new_s


def space(model: ModelSpec, gpus: int, batch: int) -> list[Configuration]:
    """Everything that Megatron would run: tensor, pipeline, interleaving, micro batch, recomputation, sharding."""
    configurations = []
    for tp, pp, vpp, mbs, recompute, sharded in itertools.product(
        (1, 2, 4, 8), (1, 2, 4, 8, 16, 32), (1, 2, 3), (1, 2, 4), ("none", "selective", "full"), (False, True)
    ):
        dp = gpus // (tp * pp)
        with contextlib.suppress(UserError):
            parallel = ParallelSpec(tp, pp, vpp, dp=dp, sequence_parallel=tp > 1, distributed_optimizer=sharded)
            train = TrainSpec(mbs, batch, recompute_granularity=recompute)
            configurations.append(Configuration(model, replace(parallel, overlap_p2p=vpp > 1), train))
    return configurations


def test_batch_of_configurations(benchmark) -> None:
    """Many configurations at once, memory check included, against one projection after another and one evaluation
    after another."""
    configurations = [c for gpus in (256, 512, 1024, 2048) for c in space(presets.model("gpt3-175b"), gpus, 1536)]
    model = projector()
    first_s = seconds(lambda: model.evaluate(configurations))
    for _ in range(4):
        model.evaluate(configurations)
    benchmark(model.evaluate, configurations)
    some = configurations[::20]

    def one_by_one() -> None:
        for configuration in some:
            model.evaluate([configuration])

    def projected() -> None:
        for configuration in some:
            model.project(configuration)

    one_by_one()
    together_s, evaluated_s = in_turn(lambda: model.evaluate(configurations), one_by_one)
    each_s, evaluated_s, projected_s = (
        together_s / len(configurations), evaluated_s / len(some), median_s(projected, 3) / len(some),
    )  # fmt: skip
    part, share = in_part(some[len(some) // 2], 20_000)
    replayed_s = brute_force_s(model, part) * share
    print(
        f"\n{len(configurations)} configurations: {1 / each_s:,.0f} a second on one core "
        f"({len(configurations) / first_s:,.0f} with estimating and loading the compiler), {evaluated_s / each_s:.0f} "
        f"times faster than one evaluation after another, {projected_s / each_s:.0f} times than one projection after "
        f"another, {replayed_s / each_s:,.0f} times than the brute-force operator-level replay of one"
    )
    assert evaluated_s > 2 * each_s
    assert projected_s > 30 * each_s
    assert replayed_s > 10_000 * each_s


def test_cost_grows_with_stages_times_microbatches(benchmark) -> None:
    """The curve: one evaluation by microbatches, layers and GPUs; the last two cost nothing."""
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
        took_s = median_s(lambda one=configuration: model.evaluate([one]), 10)
        lines.append((layers, pp, configuration.parallel.vpp, gpus, microbatches, took_s * 1e3))
    benchmark.pedantic(model.evaluate, args=([configuration],), rounds=3)
    print("\nlayers stages chunks  GPUs microbatches  ms")
    for line in lines:
        print("{:6} {:6} {:6} {:5} {:12} {:5.2f}".format(*line))
    few, some, many, _, _, deeper, wider = (line[-1] for line in lines)
    # Linear at most in microbatches; layers and GPUs are free. A factor of 3 for noise.
    assert some < 3 * 4 * few
    assert many < 3 * 4 * some
    assert deeper < 3 * some
    assert wider < 3 * some


def test_cold_start_from_the_shell(benchmark) -> None:
    """A projection from the shell against an interpreter that only imports numpy and typer."""
    arguments = ["-m", "vtrain_sim.commands.sim", "project", "--cluster", "dgx-a100-80gb", "--model", "gpt3-175b"]
    arguments += ["--num-gpus", "1024", *GPT3.split(), "--json"]
    run_python(arguments)
    benchmark.pedantic(run_python, args=(arguments,), rounds=1)
    cold_s, baseline_s = in_turn(
        lambda: run_python(arguments), lambda: run_python(["-c", "import numpy, typer"]), rounds=7
    )
    print(f"\ncold from the shell: {cold_s:.2f} s, {cold_s / baseline_s:.1f} times importing numpy and typer")
    assert cold_s < 8 * baseline_s
