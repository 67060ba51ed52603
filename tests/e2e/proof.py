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
from pathlib import Path

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
REAL_ITERATIONS, REAL_SKIPPED = 5, 2


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


@dataclass(frozen=True)
class Outcome:
    """One case: projected and measured iteration time, seconds."""

    case: Case
    projected_s: float
    low_s: float
    high_s: float
    measured_s: float

    @property
    def error(self) -> float:
        """Projected over measured, less one."""
        return self.projected_s / self.measured_s - 1


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

    def run(self, case: Case) -> list[float]:
        """Run a case for real, without the plugin; seconds of its steps after the first ones."""
        times = self.directory / "times.json"
        call(
            [
                *torchrun(case.processes),
                SCRIPT,
                *BASE,
                *case.flags,
                "--train-iters",
                str(REAL_ITERATIONS),
                "--times-out",
                str(times),
                "--pin",
                "--quiet",
            ]
        )
        seconds: list[float] = json.loads(times.read_text())
        return seconds[REAL_SKIPPED:]

    def compare(self) -> list[Outcome]:
        """All of it. Shared machines drift by several per cent within minutes, so the base run, the
        communication and every case are measured before and after each other, in opposite order."""
        steps: dict[str, list[float]] = {case.name: [] for case in CASES}
        runs = []
        for turn, cases in enumerate((CASES, CASES[::-1])):
            runs.append(f"base-{turn}")
            self.say(f"capturing the base run under the plugin: tp=1 pp=1 dp=1, as {runs[-1]}")
            self.capture(runs[-1])
            self.say("measuring communication between two processes")
            # The second time only contention and the sizes that the cases use.
            sizes = ("--max-bytes", str(64 << 20)) if turn == 0 else ("--sizes", f"{1 << 20},{4 << 20}")
            self.collectives(f"collectives-{turn}", *sizes)
            for case in cases:
                self.say(f"running {case.name} for real")
                steps[case.name] += self.run(case)
        runs.append("base-2")
        self.say(f"capturing the base run once more, as {runs[-1]}")
        self.capture(runs[-1])
        self.say(self.index().strip())
        return [self.outcome(case, tuple(runs), statistics.median(steps[case.name])) for case in CASES]

    def outcome(self, case: Case, runs: tuple[str, ...], measured_s: float) -> Outcome:
        """Project a case and put it beside its measurement."""
        answer = self.project(case, runs)
        time, low, high = (float(str(answer[f"iteration_time{part}_s"])) for part in ("", "_low", "_high"))
        return Outcome(case, time, low, high, measured_s)


def mean_absolute_error(outcomes: list[Outcome]) -> float:
    """Mean of the absolute errors."""
    return statistics.mean(abs(o.error) for o in outcomes)
