"""``vtrain``: all command lines under one name."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from vtrain_sim.commands import catalog, errors, sim
from vtrain_sim.commands.version import version

app = typer.Typer(
    rich_markup_mode="markdown",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Project LLM training, and query profiles of it. Profiling itself is vtrain-profile.",
)
app.callback()(version)
app.add_typer(sim.app, name="sim")
app.add_typer(catalog.app, name="catalog")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``vtrain``."""
    errors.run(app, "vtrain", arguments)


if __name__ == "__main__":
    main()
