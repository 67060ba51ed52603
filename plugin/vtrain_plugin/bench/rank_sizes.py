"""One rank at several sizes: a process each, so that one that fails costs no other anything."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vtrain_plugin.bench import rank
from vtrain_plugin.bench.failure import Failure


class Outcome(NamedTuple):
    """failure: None where the run was written. refused: it was not begun."""

    failure: Failure | None
    refused: bool = False


def play_size(what: str, arguments: Sequence[str]) -> Outcome:
    """Play one size in a process of its own: Megatron's parallel state is global.

    Raises `SizeError` for a flag that is not known.
    """
    reason = rank.problem(rank.parser().parse_args(list(arguments)))
    if reason:
        return Outcome(Failure(what, reason), refused=True)
    with tempfile.TemporaryDirectory() as directory:
        reason_file = Path(directory) / "reason"
        command = [sys.executable, "-m", "vtrain_plugin.bench.rank", *arguments, "--reason-file", str(reason_file)]
        done = subprocess.run(command, check=False)
        if done.returncode == 0:
            return Outcome(None)
        reason = reason_file.read_text() if reason_file.exists() else _ended(done.returncode)
    return Outcome(Failure(what, reason), refused=done.returncode == rank.REFUSED)


def _ended(code: int) -> str:
    """How a process ended that said nothing."""
    if code == -9:
        return "the process was killed, as a host that is out of memory does"
    return f"the process ended by signal {-code}" if code < 0 else f"the process ended with code {code}"
