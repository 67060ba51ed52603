"""The options of a capture on a command line; the defaults are those of the environment, then of `Settings`."""

from __future__ import annotations

from dataclasses import dataclass

import typer

from vtrain_plugin.capture.settings import Settings

OUT: str = typer.Option("", "--out", envvar="VTRAIN_OUT", help="Output directory or URI.")
WARMUP: int = typer.Option(Settings.warmup, "--warmup", envvar="VTRAIN_WARMUP", help="Training steps to skip.")
STEPS: int = typer.Option(Settings.steps, "--steps", envvar="VTRAIN_STEPS", help="Training steps to capture.")
OPERATORS: bool = typer.Option(
    Settings.operators, envvar="VTRAIN_OPERATORS", help="Record linear layers, norms and attention cores."
)
KERNELS: bool = typer.Option(
    Settings.kernels, envvar="VTRAIN_KERNELS", help="Record CUPTI kernels and framework operators."
)
KERNEL_STEPS: int = typer.Option(
    Settings.kernel_steps,
    envvar="VTRAIN_KERNEL_STEPS",
    help="Captured steps that --kernels records, from the first.",
)
NVTX: bool = typer.Option(Settings.nvtx, envvar="VTRAIN_NVTX", help="Mark the spans as NVTX ranges.")
RUN_ID: str = typer.Option(
    Settings.run_id, "--run-id", envvar="VTRAIN_RUN_ID", help="Name of the run (default: from the time)."
)
MAX_ROWS: int = typer.Option(
    Settings.max_rows, envvar="VTRAIN_MAX_ROWS", help="Rows of a step that a rank keeps; more are dropped and counted."
)
RANKS: str = typer.Option(
    Settings.ranks,
    "--ranks",
    envvar="VTRAIN_RANKS",
    help="Ranks to capture: 0,8,16-23 or first-of-node (default: all).",
)
AT: str = typer.Option(
    Settings.at,
    "--at",
    envvar="VTRAIN_AT",
    help="When: steps (100,5000), a signal (SIGUSR2) or file:PATH, not --warmup.",
)


@dataclass(frozen=True)
class CaptureOptions:
    """The options, in the order of the help."""

    out: str = OUT
    warmup: int = WARMUP
    steps: int = STEPS
    operators: bool = OPERATORS
    kernels: bool = KERNELS
    kernel_steps: int = KERNEL_STEPS
    nvtx: bool = NVTX
    run_id: str = RUN_ID
    max_rows: int = MAX_ROWS
    ranks: str = RANKS
    at: str = AT

    def settings(self) -> Settings:
        """What they ask for. Raises `SettingsError`."""
        return Settings(**vars(self))
