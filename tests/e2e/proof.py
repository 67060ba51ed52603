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
    "--num-layers", "4", "--hidden-size", "512", "--num-attention-heads", "8", "--seq-length", "512",
    "--vocab-size", "4096", "--micro-batch-size", "1", "--global-batch-size", "4",
)  # fmt: skip
WARMUP, CAPTURED = 2, 4
REAL_ITERATIONS, REAL_SKIPPED = 8, 2


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
    measured_share: float

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
                *command("vtrain-profile"), "run", "--out", str(self.profiles), "--run-id", run_id,
                "--warmup", str(WARMUP), "--steps", str(CAPTURED), "--",
                *torchrun(1), SCRIPT, *BASE, "--train-iters", iterations, "--pin", "--quiet",
            ]
        )  # fmt: skip

    def collectives(self) -> None:
        """Measure communication between two processes."""
        call(
            [*command("vtrain-profile"), "collectives", "--out", str(self.profiles),
             "--run-id", "collectives", "--ops", "all_reduce,p2p", "--max-bytes", str(64 << 20)]
        )  # fmt: skip

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
            [*command("vtrain-sim"), "project", "--catalog", str(self.catalog), *named, *case.world,
             *case.flags, "--json"]
        )  # fmt: skip
        answer: dict[str, object] = json.loads(text)
        return answer

    def run(self, case: Case) -> float:
        """Run a case for real, without the plugin; the median step, seconds."""
        times = self.directory / "times.json"
        call(
            [*torchrun(case.processes), SCRIPT, *BASE, *case.flags, "--train-iters", str(REAL_ITERATIONS),
             "--times-out", str(times), "--pin", "--quiet"]
        )  # fmt: skip
        seconds: list[float] = json.loads(times.read_text())
        return statistics.median(seconds[REAL_SKIPPED:])

    def compare(self) -> list[Outcome]:
        """All of it. The base is captured twice, before and amid the real runs: machines drift."""
        self.say("capturing the base run: tp=1 pp=1 dp=1 under the plugin")
        self.capture("base")
        self.say("measuring collectives between two processes")
        self.collectives()
        measured = {}
        for number, case in enumerate(CASES):
            if number == len(CASES) // 2:
                self.say("capturing the base run again")
                self.capture("base-again")
            self.say(f"running {case.name} for real")
            measured[case.name] = self.run(case)
        self.say(self.index().strip())
        outcomes = []
        for case in CASES:
            answer = self.project(case, ("base", "base-again"))
            shares = answer["provenance"]
            assert isinstance(shares, dict)
            outcomes.append(
                Outcome(
                    case, float(str(answer["iteration_time_s"])), float(str(answer["iteration_time_low_s"])),
                    float(str(answer["iteration_time_high_s"])), measured[case.name], shares["measured"],
                )
            )  # fmt: skip
        return outcomes


def mean_absolute_error(outcomes: list[Outcome]) -> float:
    """Mean of the absolute errors."""
    return statistics.mean(abs(o.error) for o in outcomes)
