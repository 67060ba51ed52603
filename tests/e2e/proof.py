"""Profile one real run, project configurations that were not run, then run them and compare.

Everything goes through the public commands, as a user would. The training script is a plain one
(tests/support/train_gpt.py) on this machine's CPU; see `support.cpu_shims` for what that takes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from e2e.interference import Interference, watched

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "tests" / "support" / "train_gpt.py")
BASE = (
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
    "--micro-batch-size",
    "1",
    "--global-batch-size",
    "4",
)
WARMUP, CAPTURED = 5, 3
REAL_ITERATIONS, BASE_ITERATIONS, REAL_SKIPPED = 6, 4, 2


@dataclass(frozen=True)
class Case:
    """A configuration that is projected and then run: what changes, and on how many processes."""

    name: str
    flags: tuple[str, ...]
    processes: int
    world: tuple[str, ...] = ()


CASES = (
    Case("tp=2", ("--tensor-model-parallel-size", "2"), 2),
    Case("pp=2", ("--pipeline-model-parallel-size", "2"), 2),
    Case(
        "pp=2, interleaved",
        ("--pipeline-model-parallel-size", "2", "--num-layers-per-virtual-pipeline-stage", "1"),
        2,
    ),
    Case("dp=2", (), 2, ("--num-gpus", "2")),
    Case("deeper: 8 layers", ("--num-layers", "8"), 1),
    Case("wider: hidden 768", ("--hidden-size", "768", "--num-attention-heads", "12"), 1),
)


# Run before and after each case: what the machine does to it, it does to the case between.
BASE_CASE = Case("base", (), 1)
# Base runs before and after a case that differ by more leave open which of them the case met.
MOST_DRIFT = 0.08


@dataclass(frozen=True)
class Measured:
    """Median time of a step of a real run, seconds, and what disturbed it."""

    seconds: float
    interference: Interference


@dataclass(frozen=True)
class Outcome:
    """One case: projected and measured iteration time, seconds; and those of the base run, which is measured just
    before and just after the case."""

    case: Case
    projected_s: float
    low_s: float
    high_s: float
    measured: Measured
    projected_base_s: float
    before: Measured
    after: Measured

    @property
    def measured_s(self) -> float:
        """Seconds of a step, as they were."""
        return self.measured.seconds

    @property
    def base_s(self) -> float:
        """The base run around the case."""
        return (self.before.seconds + self.after.seconds) / 2

    @property
    def drift(self) -> float:
        """How much longer the base run took around the case than it takes by its profile."""
        return self.base_s / self.projected_base_s - 1

    @property
    def error(self) -> float:
        """Of the time over that of the base run: projected over measured, less one. The drift is not in it."""
        return (self.projected_s / self.projected_base_s) / (self.measured_s / self.base_s) - 1

    @property
    def disturbed_by(self) -> list[str]:
        """Why the case cannot be judged; empty where it can."""
        said = self.measured.interference.reasons()
        apart = abs(self.after.seconds / self.before.seconds - 1)
        if apart > MOST_DRIFT:
            said.append(f"the base run took {self.before.seconds:.2f} s before it and {self.after.seconds:.2f} s after")
        return said


def environment() -> dict[str, str]:
    """One thread a process, and an allocator that keeps what it has: repeatable step times."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
        "MALLOC_TOP_PAD_": str(256 << 20),
        "PYTHONWARNINGS": "ignore",
    }


def command(name: str) -> list[str]:
    """One of the project's commands, of the environment that runs this."""
    return [str(Path(sys.executable).parent / name)]


def call(arguments: list[str]) -> str:
    """Run a command; its standard output. A failure shows what it printed."""
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def torchrun(processes: int) -> list[str]:
    """Launcher for a number of processes on this machine."""
    if processes == 1:
        return [sys.executable]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]


class Proof:
    """The whole comparison in one directory."""

    def __init__(self, directory: Path, say: Callable[[str], None] = lambda line: None) -> None:
        self.directory = directory
        self.profiles = directory / "profiles"
        self.catalog = directory / "catalog.duckdb"
        self.say = say
        directory.mkdir(parents=True, exist_ok=True)

    def capture(self, run_id: str) -> None:
        """Train at tp = pp = dp = 1 under the plugin."""
        iterations = str(WARMUP + CAPTURED + 1)
        call(
            [
                *command("vtrain-profile"),
                "run",
                "--out",
                str(self.profiles),
                "--run-id",
                run_id,
                "--warmup",
                str(WARMUP),
                "--steps",
                str(CAPTURED),
                "--",
                *torchrun(1),
                SCRIPT,
                *BASE,
                "--train-iters",
                iterations,
                "--pin",
                "--quiet",
            ]
        )

    def collectives(self, run_id: str, *more: str) -> None:
        """Measure communication, and contention, between two processes."""
        call(
            [
                *command("vtrain-profile"),
                "collectives",
                "--out",
                str(self.profiles),
                "--run-id",
                run_id,
                "--ops",
                "all_reduce,p2p",
                "--repeats",
                "8",
                *more,
            ]
        )

    def index(self) -> str:
        """Add everything to the catalog."""
        return call([*command("vtrain-catalog"), "add", str(self.profiles), "-c", str(self.catalog)])

    def sql(self, query: str) -> str:
        """Ask the catalog."""
        return call([*command("vtrain-catalog"), "sql", query, "-c", str(self.catalog)])

    def project(self, case: Case, runs: tuple[str, ...]) -> dict[str, object]:
        """Project a case from the captured runs."""
        named = [part for run in runs for part in ("--run", run)]
        text = call(
            [
                *command("vtrain-sim"),
                "project",
                "--catalog",
                str(self.catalog),
                *named,
                *case.world,
                *case.flags,
                "--json",
            ]
        )
        answer: dict[str, object] = json.loads(text)
        return answer

    def run(self, case: Case, iterations: int = REAL_ITERATIONS) -> Measured:
        """Run a case for real, without the plugin; its steps after the first ones."""
        times = self.directory / "times.json"
        words = ["--train-iters", str(iterations), "--times-out", str(times), "--pin", "--quiet"]
        with watched() as watch:
            call([*torchrun(case.processes), SCRIPT, *BASE, *case.flags, *words])
        seconds: list[float] = json.loads(times.read_text())
        assert watch.interference is not None
        return Measured(statistics.median(seconds[REAL_SKIPPED:]), watch.interference)

    def compare(self) -> list[Outcome]:
        """All of it. Shared machines drift by several per cent within minutes: the base run is captured at the
        beginning, in the middle and at the end, and runs without the plugin before and after every case."""
        runs: list[str] = []
        measured: list[Measured] = []
        bases: list[Measured] = []
        for number, case in enumerate(CASES):
            if number in (0, len(CASES) // 2):
                self._profile(runs)
            if not bases:
                bases.append(self._base())
            self.say(f"running {case.name} for real")
            measured.append(self.run(case))
            bases.append(self._base())
        runs.append(f"base-{len(runs)}")
        self.say(f"capturing the base run once more, as {runs[-1]}")
        self.capture(runs[-1])
        self.say(self.index().strip())
        base_s = float(str(self.project(BASE_CASE, tuple(runs))["iteration_time_s"]))
        around = pairwise(bases)
        return [
            self.outcome(case, tuple(runs), one, base_s, before, after)
            for case, one, (before, after) in zip(CASES, measured, around, strict=True)
        ]

    def _profile(self, runs: list[str]) -> None:
        """Capture the base run, and measure communication beside it."""
        turn = len(runs)
        runs.append(f"base-{turn}")
        self.say(f"capturing the base run under the plugin: tp=1 pp=1 dp=1, as {runs[-1]}")
        self.capture(runs[-1])
        self.say("measuring communication between two processes")
        # The second time only contention and the sizes that the cases use.
        sizes = ("--max-bytes", str(64 << 20)) if turn == 0 else ("--sizes", f"{1 << 20},{4 << 20}")
        self.collectives(f"collectives-{turn}", *sizes)

    def _base(self) -> Measured:
        self.say("running the base run for real, to see what the machine does")
        measured = self.run(BASE_CASE, BASE_ITERATIONS)
        for reason in measured.interference.reasons():
            self.say(f"this machine is busy: {reason}")
        return measured

    def outcome(
        self, case: Case, runs: tuple[str, ...], measured: Measured, base_s: float, before: Measured, after: Measured
    ) -> Outcome:
        """Project a case and put it beside its measurement."""
        answer = self.project(case, runs)
        time, low, high = (float(str(answer[f"iteration_time{part}_s"])) for part in ("", "_low", "_high"))
        return Outcome(case, time, low, high, measured, base_s, before, after)


def mean_absolute_error(outcomes: list[Outcome]) -> float:
    """Mean of the absolute errors."""
    return statistics.mean(abs(o.error) for o in outcomes)


def judged(outcomes: list[Outcome]) -> list[Outcome]:
    """Those that nothing disturbed; none where they are fewer than half."""
    undisturbed = [o for o in outcomes if not o.disturbed_by]
    return undisturbed if 2 * len(undisturbed) >= len(outcomes) else []


def verdict(outcomes: list[Outcome]) -> list[str]:
    """What the errors say, and what they do not: one sentence a line."""
    disturbed = [o for o in outcomes if o.disturbed_by]
    lines = [f"not judged: {o.case.name}: {'; '.join(o.disturbed_by)}" for o in disturbed]
    undisturbed = judged(outcomes)
    if not undisturbed:
        return [
            *lines,
            f"TOO BUSY TO JUDGE: {len(disturbed)} of {len(outcomes)} runs were disturbed by other work on this machine, "
            "and their errors say nothing about the projections. Run the demo again when nothing else runs here.",
        ]
    how = f"mean absolute error of {len(undisturbed)} undisturbed runs" if disturbed else "mean absolute error"
    return [*lines, f"{how}: {mean_absolute_error(undisturbed):.1%}"]
