"""What the launchers do with signals and with errors of the script."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import run_python


@pytest.mark.parametrize(("error", "code"), [("EOFError", 1), ("KeyboardInterrupt", 130)])
def test_the_scripts_own_error_is_shown(tmp_path: Path, error: str, code: int) -> None:
    script = tmp_path / "ends.py"
    script.write_text(f"def read():\n    raise {error}('no more input')\nread()\n")
    done = run_python(["-m", "vtrain_plugin", "--out", str(tmp_path / "p"), str(script)], check=False)
    assert done.returncode == code
    assert "in read" in done.stderr
    assert f"{error}: no more input" in done.stderr


def test_a_signal_that_asks_for_a_capture_reaches_the_training(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    training = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGUSR2, lambda *a: pathlib.Path(sys.argv[1]).write_text('yes'))\n"
        "pathlib.Path(sys.argv[1] + '.ready').write_text('')\n"
        "for _ in range(600):\n"
        "    time.sleep(0.05)\n"
        "    if pathlib.Path(sys.argv[1]).exists():\n"
        "        sys.exit(5)\n"
    )
    launcher = ["-m", "vtrain_plugin.cli", "run", "--out", str(tmp_path / "p"), "--at", "SIGUSR2", "--"]
    process = subprocess.Popen([sys.executable, *launcher, sys.executable, "-c", training, str(asked)])
    for _ in range(600):
        if Path(f"{asked}.ready").exists():
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGUSR2)
    assert process.wait(60) == 5, "the training's own exit code"
    assert asked.exists()
