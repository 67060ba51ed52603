"""Runs an unmodified training script under the plugin, in this process."""

from __future__ import annotations

import os
import runpy
import sys

import typer

from vtrain_plugin import arming
from vtrain_plugin.capture.process import local_world_size
from vtrain_plugin.capture.settings import SettingsError
from vtrain_plugin.capture_options import CaptureOptions
from vtrain_schemas.option_groups import with_groups
from vtrain_schemas.rank_choice import parse_ranks

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False})
@with_groups
def launch(
    script: list[str] = typer.Argument(..., help="Training script and its arguments."),
    *,
    options: CaptureOptions,
) -> None:
    """Run SCRIPT with its arguments under the profiling plugin."""
    path, *arguments = script
    try:
        _check_ranks(options.ranks)
        settings = options.settings()
        arming.arm_instead(settings)
    except SettingsError as error:
        raise SystemExit(_refuse(str(error))) from None
    if not os.path.exists(path):
        raise SystemExit(_refuse(f"there is no script {path!r}: give the path of a Python file"))
    if os.environ.get("VTRAIN_OUT"):
        # It arms what the script starts: to do the same.
        os.environ.update(settings.to_environment())
    sys.argv = [path, *arguments]
    # The script finds its neighbours first, as under `python SCRIPT`.
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    try:
        runpy.run_path(path, run_name="__main__")
    except (EOFError, KeyboardInterrupt) as error:
        # The command line's library would say "Aborted" alone.
        sys.excepthook(type(error), error, error.__traceback__)
        raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 1) from None
    finally:
        arming.disarm()


def _check_ranks(ranks: str) -> None:
    """Refuse ranks that are none of the launcher's world; whether it is a list of ranks is checked by `Settings`."""
    world = os.environ.get("WORLD_SIZE", "")
    if not world.isdigit():
        return
    try:
        chosen = parse_ranks(ranks).of_world(int(world), local_world_size())
    except ValueError:
        return
    if not chosen:
        raise SettingsError(f"ranks is {ranks!r}: the world of {world} has ranks 0 to {int(world) - 1}")


def _refuse(sentence: str) -> int:
    print(f"vtrain_plugin: {sentence}", file=sys.stderr)
    return 2


def main() -> None:
    """Entry point of ``python -m vtrain_plugin``."""
    app(prog_name="python -m vtrain_plugin")
