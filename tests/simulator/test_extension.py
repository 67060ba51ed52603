"""Another package brings a schedule, an operator kind and a renderer; one command line projects with all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulator.synthetic import rank_row, write_collectives, write_profile
from vtrain_plugin.capture.sink import Sink
from vtrain_sim.catalog import Catalog
from vtrain_sim.schedules import PipelineShape, get
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.simulate.timeline import timeline
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec

PACKAGE = '''
"""A package of which vtrain knows nothing."""

from dataclasses import dataclass

from vtrain_schemas.operators import Family, OperatorKind
from vtrain_sim.costs.algorithms import Algorithm, Ring
from vtrain_sim.model.dispatchers import Dispatcher
from vtrain_sim.schedules import Pass, Placement, Schedule
from vtrain_sim.specs.precision import Precision


class Toy(Schedule):
    """A microbatch passes the whole pipeline forward and backward before the next one starts."""

    name = "toy"

    def placement(self, stages, chunks):
        return Placement.in_turn(stages, chunks)

    def order(self, shape, times=None):
        return [[Pass(kind, 0, i) for i in range(shape.microbatches) for kind in "FB"]] * shape.stages


@dataclass(frozen=True)
class Scan(OperatorKind):
    family: Family = Family.MEMORY_BOUND

    def bytes(self, operator):
        return 4.0 * operator.m * operator.n


scan = Scan("scan", "selective scan of m tokens of width n")


# Products in 8 bits without a further copy of the weights.
TINY = Precision("tiny", "bfloat16", "float8", "float32", fp8_format="tiny")


class Free(Dispatcher):
    """Tokens that need not move."""

    name = "free"

    def dispatch(self, routing):
        return []

    combine = combine_backward = dispatch_backward = dispatch


class Instant(Algorithm):
    """A tenth of any ring's time."""

    name = "instant"
    ops = Ring.ops

    def applies(self, path):
        return True

    def seconds(self, op, nbytes, path):
        return 0.1 * Ring().seconds(op, nbytes, path)


class Loud:
    name = "loud"

    def render(self, result):
        return f"{type(result).__name__.upper()}: {result.configuration.schedule}, {result.iteration_time_s:.9f}!\\n"
'''
ENTRY_POINTS = """
[vtrain.schedules]
toy = toypackage:Toy
[vtrain.operators]
scan = toypackage:scan
[vtrain.precisions]
tiny = toypackage:TINY
[vtrain.dispatchers]
free = toypackage:Free
[vtrain.algorithms]
instant = toypackage:Instant
[vtrain.renderers]
loud = toypackage:Loud
"""

# A projection from bundled data.
BUNDLED = [sys.executable, "-m", "vtrain_sim.commands.sim", "project", "--model", "gpt3-1.3b", "--json"]
BUNDLED += ["--cluster", "dgx-h100", "--num-gpus", "8", "--micro-batch-size", "1", "--global-batch-size", "8"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a process in which the package is installed."""
    site = tmp_path / "site"
    information = site / "toypackage-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "toypackage.py").write_text(PACKAGE)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: toypackage\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """A captured run in which the package's operator was measured."""
    write_profile(tmp_path / "p")
    write_collectives(tmp_path / "p")
    sink = Sink(str(tmp_path / "p"), "base", 1)
    sink.write("ranks", [rank_row("base", 1)])
    scan = {"name": "mixer", "kind": "scan", "phase": "forward", "source": "module", "m": 4096, "n": 64}
    sink.write("operators", [{"run_id": "base", "rank": 1, "step": 1, **scan, "start_ns": 1, "duration_ns": 9000}])
    found = Catalog(tmp_path / "c.duckdb")
    assert not found.add([str(tmp_path / "p")]).problems
    return found.path


def project(catalog: Path, environment: dict[str, str], *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vtrain_sim.commands.sim", "project", "--catalog", str(catalog), "--run", "base"]
    command += ["--pipeline-model-parallel-size", "2", *flags]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_package_brings_all_three(catalog: Path, environment: dict[str, str]) -> None:
    done = project(catalog, environment, "--schedule", "toy", "--format", "loud")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PROJECTION: toy, ")
    usual = project(catalog, environment, "--schedule", "1f1b", "--format", "loud")
    # One microbatch at a time: each stage waits for the other all the time.
    seconds = [float(text.split(", ")[1].rstrip("!\n")) for text in (done.stdout, usual.stdout)]
    assert 1.3 * seconds[1] < seconds[0] < 2 * seconds[1]


@pytest.mark.parametrize(
    ("flags", "word"),
    [("--fp8-format tiny", "fp8"), ("--num-experts 8 --moe-router-topk 2 --moe-token-dispatcher-type free", "free")],
)
def test_precisions_and_dispatchers_come_from_packages_too(environment: dict[str, str], flags: str, word: str) -> None:
    for where, code in ((environment, 0), (dict(os.environ), 2)):
        done = subprocess.run([*BUNDLED, *flags.split()], env=where, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
    assert word in done.stderr


def test_algorithms_come_from_packages_too(environment: dict[str, str]) -> None:
    seconds = []
    for where in (environment, dict(os.environ)):
        done = subprocess.run(BUNDLED, env=where, capture_output=True, text=True, check=True)
        seconds.append(json.loads(done.stdout)["iteration_time_s"])
    assert seconds[0] < seconds[1]


def test_without_the_package_each_is_refused(catalog: Path) -> None:
    bare = dict(os.environ)
    assert "unknown operator kind 'scan'" in project(catalog, bare).stderr
    unscanned = project(catalog, bare, "--schedule", "toy")
    assert unscanned.returncode == 2
    assert unscanned.stderr.count("\n") == 1


def test_a_registered_schedule_is_evaluated_as_its_timeline_says() -> None:
    from simulator.schedules.test_registry import OneAtATime
    from simulator.simulate.strategies import Machine
    from vtrain_sim.schedules import register, registry

    register(OneAtATime())
    try:
        projector: Projector = Machine("dgx-h100", 1.0, 1.2, 0.0).projector()
        parallel = ParallelSpec(pp=3, dp=2, overlap_grad_reduce=True)
        train = TrainSpec(1, 8, schedule="one-at-a-time")
        configuration = Configuration(ModelSpec(6, 1024, 8, 512, 1000), parallel, train)
        answer, exact = projector.project(configuration), timeline(projector.evaluator, configuration)
        assert answer.iteration_time_s == pytest.approx(exact.iteration_time_s, rel=1e-9)
        assert get("one-at-a-time").in_flight(PipelineShape(3, 1, 4)).tolist() == [[1.0, 1.0, 1.0]]
        kept = projector.evaluator.layout(configuration).places["kept_bytes"]
        assert [s.activations_bytes for s in answer.memory.stages] == kept.tolist()
    finally:
        del registry._schedules._items["one-at-a-time"]
