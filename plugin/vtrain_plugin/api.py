"""Switch a capture on and off from Python."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vtrain_plugin import arming
from vtrain_plugin.capture.session import Session
from vtrain_plugin.capture.settings import Settings


def enable(
    out: str = "",
    *,
    warmup: int = Settings.warmup,
    steps: int = Settings.steps,
    operators: bool = Settings.operators,
    kernels: bool = Settings.kernels,
    nvtx: bool = Settings.nvtx,
    run_id: str = Settings.run_id,
    max_rows: int = Settings.max_rows,
    ranks: str = Settings.ranks,
    at: str = Settings.at,
    kernel_steps: int = Settings.kernel_steps,
) -> Session | None:
    """Arm a capture; it starts after the warm-up steps and ends by itself.

    out: output directory or URI; the other options are the fields of `Settings`. Returns the
    session, or the one that is already armed. Raises `SettingsError` for a setting that cannot be
    honoured (at this call, before training), never later.
    """
    return arming.arm(Settings(out, warmup, steps, operators, kernels, nvtx, run_id, max_rows, ranks, at, kernel_steps))


def disable() -> None:
    """End the capture now, write what it holds and remove every hook."""
    arming.disarm()


@contextmanager
def profile(
    out: str = "",
    *,
    warmup: int = Settings.warmup,
    steps: int = Settings.steps,
    operators: bool = Settings.operators,
    kernels: bool = Settings.kernels,
    nvtx: bool = Settings.nvtx,
    run_id: str = Settings.run_id,
    max_rows: int = Settings.max_rows,
    ranks: str = Settings.ranks,
    at: str = Settings.at,
    kernel_steps: int = Settings.kernel_steps,
) -> Iterator[Session | None]:
    """Capture the training steps inside the block; the options are those of `enable`.

    Optimizer steps mark the end of a training step; a loop without Megatron's optimizer calls
    ``session.step()`` at the end of each instead.
    """
    session = enable(
        out,
        warmup=warmup,
        steps=steps,
        operators=operators,
        kernels=kernels,
        nvtx=nvtx,
        run_id=run_id,
        max_rows=max_rows,
        ranks=ranks,
        at=at,
        kernel_steps=kernel_steps,
    )
    try:
        yield session
    finally:
        disable()
