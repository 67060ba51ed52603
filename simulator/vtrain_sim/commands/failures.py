"""Turns `UserError` into one sentence on stderr and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from vtrain_sim.errors import UserError


def run(app: typer.Typer, name: str) -> None:
    """Run a command line; never a traceback for bad input."""
    try:
        app(prog_name=name)
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:
        # The reader of a pipe (head, less) went away: nothing to report.
        sys.stderr.close()
        raise SystemExit(0) from None


def write_file(path: str, write: Callable[[Any], None]) -> None:
    """Write a file whole or not at all; a refusal of the disk is a sentence."""
    hidden = f"{path}.{os.getpid()}.tmp"
    try:
        with open(hidden, "wb") as stream:
            write(stream)
        os.replace(hidden, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
