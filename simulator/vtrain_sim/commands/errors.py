"""Turns `UserError` into one sentence on stderr and exit code 2."""

from __future__ import annotations

import sys

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
