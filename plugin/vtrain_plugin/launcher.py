"""Runs an unmodified training script under the plugin, in this process."""

from __future__ import annotations

import os
import runpy
import sys

import typer

from vtrain_plugin import api
from vtrain_plugin.capture.settings import SettingsError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False})
def launch(
    script: list[str] = typer.Argument(..., help="Training script and its arguments."),
    out: str = typer.Option("", "--out", help="Output directory or URI (default: VTRAIN_OUT)."),
    warmup: int = typer.Option(2, "--warmup", help="Training steps to skip."),
    steps: int = typer.Option(3, "--steps", help="Training steps to capture."),
    operators: bool = typer.Option(True, help="Record linear layers, norms and attention cores."),
    kernels: bool = typer.Option(False, help="Record CUPTI kernels and framework operators."),
    nvtx: bool = typer.Option(True, help="Mark the spans as NVTX ranges."),
    run_id: str = typer.Option("", "--run-id", help="Name of the run (default: from the time)."),
) -> None:
    """Run SCRIPT with its arguments under the profiling plugin."""
    path, *arguments = script
    try:
        api.enable(
            out or os.environ.get("VTRAIN_OUT", ""),
            warmup=warmup,
            steps=steps,
            operators=operators,
            kernels=kernels,
            nvtx=nvtx,
            run_id=run_id or os.environ.get("VTRAIN_RUN_ID", ""),
        )
    except SettingsError as error:
        raise SystemExit(_refuse(str(error))) from None
    if path != "-m" and not os.path.exists(path):
        raise SystemExit(_refuse(f"there is no script {path!r}: give the path of a Python file"))
    sys.argv = [path, *arguments]
    # The script finds its neighbours first, as under `python SCRIPT`.
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    try:
        runpy.run_path(path, run_name="__main__")
    finally:
        api.disable()


def _refuse(sentence: str) -> int:
    print(f"vtrain_plugin: {sentence}", file=sys.stderr)
    return 2


def main() -> None:
    """Entry point of ``python -m vtrain_plugin``."""
    app(prog_name="python -m vtrain_plugin")
