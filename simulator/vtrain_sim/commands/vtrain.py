"""``vtrain``: all command lines under one name."""

from __future__ import annotations

import typer

from vtrain_sim.commands import catalog, errors, sim
from vtrain_sim.commands.version import version

app = typer.Typer(
    rich_markup_mode="markdown",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Project LLM training, and query profiles of it. Profiling itself is vtrain-profile.",
)
app.callback()(version)
app.add_typer(sim.app, name="sim")
app.add_typer(catalog.app, name="catalog")


def main() -> None:
    """Entry point of ``vtrain``."""
    errors.run(app, "vtrain")


if __name__ == "__main__":
    main()
