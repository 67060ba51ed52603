"""Options of commands whose work can be spread."""

from __future__ import annotations

import typer

EXECUTOR = typer.Option("local", "--executor", help="local, or ray.")
PROCESSES = typer.Option(0, "--processes", min=0, help="At a time (default: one per core; a small search has one).")
ADDRESS = typer.Option("", "--address", help="Address of a Ray cluster (default: one on this machine).")
