"""``vtrain-sim``."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from vtrain_sim.commands import errors
from vtrain_sim.commands.calibrate import calibrate
from vtrain_sim.commands.compare import compare
from vtrain_sim.commands.explain import explain
from vtrain_sim.commands.help import Command, MegatronCommand
from vtrain_sim.commands.listing import flags, presets
from vtrain_sim.commands.notices import with_quiet
from vtrain_sim.commands.plan import plan
from vtrain_sim.commands.project import project
from vtrain_sim.commands.schedule import schedule
from vtrain_sim.commands.serve import serve
from vtrain_sim.commands.size import size
from vtrain_sim.commands.study import study
from vtrain_sim.commands.sweep import sweep
from vtrain_sim.commands.timeline import timeline
from vtrain_sim.commands.tune import tune
from vtrain_sim.commands.validate import validate
from vtrain_sim.commands.version import version

app = typer.Typer(
    rich_markup_mode="markdown",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Project LLM training on clusters and configurations that were not run.",
)
# What vtrain does not know is Megatron's.
_MEGATRON = {"allow_extra_args": True, "ignore_unknown_options": True}
app.callback()(version)
_OF_A_JOB = (
    project,
    sweep,
    timeline,
    compare,
    explain,
    plan,
)
_OTHERS = (schedule, size, study, calibrate, validate, tune, serve, flags, presets)
for described in _OF_A_JOB:
    app.command(cls=MegatronCommand, context_settings=_MEGATRON)(with_quiet(described))
for other in _OTHERS:
    app.command(cls=Command)(with_quiet(other))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``vtrain-sim``."""
    errors.run(app, "vtrain-sim", arguments)


if __name__ == "__main__":
    main()
