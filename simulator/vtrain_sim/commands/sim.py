"""``vtrain-sim``."""

from __future__ import annotations

import typer

from vtrain_sim.commands import errors
from vtrain_sim.commands.calibrate import calibrate
from vtrain_sim.commands.plan import plan
from vtrain_sim.commands.project import project
from vtrain_sim.commands.schedule import schedule
from vtrain_sim.commands.size import size
from vtrain_sim.commands.study import study
from vtrain_sim.commands.sweep import sweep
from vtrain_sim.commands.timeline import timeline
from vtrain_sim.commands.tune import tune
from vtrain_sim.commands.validate import validate
from vtrain_sim.commands.version import version

app = typer.Typer(
    rich_markup_mode="markdown",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Project LLM training on clusters and configurations that were not run.",
)
# What vtrain does not know is Megatron's.
_MEGATRON = {"allow_extra_args": True, "ignore_unknown_options": True}
app.callback()(version)
app.command(context_settings=_MEGATRON)(project)
app.command(context_settings=_MEGATRON)(sweep)
app.command(context_settings=_MEGATRON)(timeline)
app.command(context_settings=_MEGATRON)(plan)
app.command()(schedule)
app.command()(size)
app.command()(study)
app.command()(calibrate)
app.command()(validate)
app.command()(tune)


def main() -> None:
    """Entry point of ``vtrain-sim``."""
    errors.run(app, "vtrain-sim")


if __name__ == "__main__":
    main()
