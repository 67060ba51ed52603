"""``--version`` of every command line."""

from __future__ import annotations

import typer

from vtrain_sim import __version__


def _print_version(context: typer.Context, wanted: bool) -> None:
    if wanted:
        print(f"{context.find_root().info_name} {__version__}")
        raise typer.Exit


def version(
    wanted: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Callback of a command line that has nothing but its version."""
