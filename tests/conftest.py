"""Fixtures: real captures of Megatron-Core training on CPU, made once a session."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from vtrain_sim.catalog import Catalog

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tests" / "support" / "train_gpt.py"
OLD_MEGATRON = ROOT / ".venv" / "megatron-core-0.12"
SMALL = (
    "--num-layers",
    "4",
    "--hidden-size",
    "64",
    "--num-attention-heads",
    "4",
    "--seq-length",
    "32",
    "--vocab-size",
    "128",
    "--global-batch-size",
    "4",
    "--train-iters",
    "4",
)


# Every run draws the same examples, so that a failure is the change's. `make random` draws others.
settings.register_profile("same", derandomize=True, database=None)
settings.register_profile("random", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_configure(config: pytest.Config) -> None:
    """Processes that tests start get Ctrl-C, also where a shell ignores it, as it does of its background jobs."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Capture:
    """A finished training run: where its profile is, and what it printed."""

    directory: Path
    run_id: str
    catalog: Catalog
    stdout: str
    stderr: str


def run_python(
    arguments: list[str], processes: int = 1, env: dict[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a Python file or module, under torchrun for several processes; PYTHONPATH comes before the present one."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **(env or {})}
    paths = [part["PYTHONPATH"] for part in (env or {}, os.environ) if "PYTHONPATH" in part]
    if paths:
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    done = subprocess.run(
        [*launcher, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    if check and done.returncode:
        raise AssertionError(f"{arguments} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Capture]:
    """``capture("tp2", 2, "--tensor-model-parallel-size", "2")``: train under the plugin, once."""
    made: dict[str, Capture] = {}

    def make(
        name: str,
        processes: int = 1,
        *flags: str,
        plugin: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
    ) -> Capture:
        if name not in made:
            directory = tmp_path_factory.mktemp(name)
            done = run_python(
                [
                    "-m",
                    "vtrain_plugin",
                    "--out",
                    str(directory),
                    "--warmup",
                    "1",
                    "--steps",
                    "2",
                    "--run-id",
                    name,
                    *plugin,
                    str(SCRIPT),
                    *SMALL,
                    *flags,
                ],
                processes,
                {"VTRAIN_DEBUG": "1", **(env or {})},
            )
            catalog = Catalog(directory / "catalog.duckdb")
            report = catalog.add([str(directory)])
            assert not report.problems
            if "--ranks" not in plugin:
                # Each rank wrote; where one did not, what it said is what helps.
                assert len(catalog.show(name)["ranks"]) == processes, done.stderr
            made[name] = Capture(directory, name, catalog, done.stdout, done.stderr)
        return made[name]

    return make
