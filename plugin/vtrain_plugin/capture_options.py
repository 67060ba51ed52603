"""The options of a capture on a command line; the defaults are those of `Settings`."""

from __future__ import annotations

import typer

from vtrain_plugin.capture.settings import Settings

WARMUP: int = typer.Option(Settings.warmup, "--warmup", help="Training steps to skip.")
STEPS: int = typer.Option(Settings.steps, "--steps", help="Training steps to capture.")
OPERATORS: bool = typer.Option(Settings.operators, help="Record linear layers, norms and attention cores.")
KERNELS: bool = typer.Option(Settings.kernels, help="Record CUPTI kernels and framework operators.")
KERNEL_STEPS: int = typer.Option(Settings.kernel_steps, help="Captured steps that --kernels records, from the first.")
NVTX: bool = typer.Option(Settings.nvtx, help="Mark the spans as NVTX ranges.")
RUN_ID: str = typer.Option(Settings.run_id, "--run-id", help="Name of the run (default: from the time).")
RANKS: str = typer.Option(
    Settings.ranks, "--ranks", help="Ranks to capture: 0,8,16-23 or first-of-node (default: all)."
)
AT: str = typer.Option(
    Settings.at, "--at", help="When: steps (100,5000), a signal (SIGUSR2) or file:PATH, not --warmup."
)
