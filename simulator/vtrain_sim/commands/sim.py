"""``vtrain-sim``."""

from __future__ import annotations

import typer

from vtrain_sim.commands import failures
from vtrain_sim.commands.calibrate import calibrate
from vtrain_sim.commands.plan import plan
from vtrain_sim.commands.project import project
from vtrain_sim.commands.schedule import schedule
from vtrain_sim.commands.size import size
from vtrain_sim.commands.study import study
from vtrain_sim.commands.tune import tune
from vtrain_sim.commands.validate import validate

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Project LLM training on clusters and configurations that were not run.",
)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(project)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(plan)
app.command()(schedule)
app.command()(size)
app.command()(study)
app.command()(calibrate)
app.command()(validate)
app.command()(tune)


def main() -> None:
    """Entry point of ``vtrain-sim``."""
    failures.run(app, "vtrain-sim")


if __name__ == "__main__":
    main()
