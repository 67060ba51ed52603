"""What to capture, from arguments or from ``VTRAIN_*`` environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from vtrain_plugin.capture.moments import moment_of
from vtrain_schemas.layout import check_run_id
from vtrain_schemas.rank_choice import parse_ranks

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off", ""}


class SettingsError(ValueError):
    """A setting that cannot be honoured; the message says which and what would be valid."""


@dataclass(frozen=True)
class Settings:
    """One capture.

    out: output directory, or a URI that pyarrow or fsspec can open (``s3://bucket/profiles``).
    warmup, steps: training steps to skip, then to capture. All skipped ones but the first and the last say what steps
    take without a capture, so that its cost can be taken off.
    operators: also record linear layers, norms and attention cores (not only layers and phases).
    kernels: also record CUPTI kernels, NCCL kernels and framework operators through torch.profiler.
    kernel_steps: how many of the captured steps, from the first, are profiled so.
    nvtx: mark the spans as NVTX ranges (domain ``vtrain``) for Nsight Systems.
    run_id: name of the run; made from the time and shared between ranks when empty.
    max_rows: bound on rows of a step on a rank; beyond it rows are dropped and counted.
    ranks: on which ranks (``0,8,16-23``, ``first-of-node``); all of them when empty.
    at: when, instead of after the warm-up: step numbers (``100,5000``), a signal (``SIGUSR2``) or ``file:PATH``.
    """

    out: str
    warmup: int = 5
    steps: int = 3
    operators: bool = True
    kernels: bool = False
    nvtx: bool = True
    run_id: str = ""
    max_rows: int = 2_000_000
    ranks: str = ""
    at: str = ""
    kernel_steps: int = 1

    def __post_init__(self) -> None:
        if not self.out:
            raise SettingsError("no output directory: give --out DIR, out=..., or VTRAIN_OUT")
        if self.warmup < 0:
            raise SettingsError(f"warmup is {self.warmup}: it must be 0 or more steps")
        if self.steps < 1:
            raise SettingsError(f"steps is {self.steps}: it must be 1 or more")
        if not 1 <= self.kernel_steps <= self.steps:
            raise SettingsError(
                f"kernel_steps is {self.kernel_steps}: it must be 1 to {self.steps}, the steps captured"
            )
        if self.max_rows < 1000:
            raise SettingsError(f"max_rows is {self.max_rows}: it must be 1000 or more")
        try:
            if self.run_id:
                check_run_id(self.run_id)
        except ValueError as error:
            raise SettingsError(str(error)) from None
        try:
            parse_ranks(self.ranks)
        except ValueError as error:
            raise SettingsError(f"ranks is {error}") from None
        try:
            moment_of(self.at, self.warmup)
        except ValueError as error:
            raise SettingsError(f"at is {error}") from None

    def to_environment(self) -> dict[str, str]:
        """The variables that make another process capture the same."""
        return {
            "VTRAIN_OUT": self.out,
            "VTRAIN_WARMUP": str(self.warmup),
            "VTRAIN_STEPS": str(self.steps),
            "VTRAIN_OPERATORS": str(int(self.operators)),
            "VTRAIN_KERNELS": str(int(self.kernels)),
            "VTRAIN_NVTX": str(int(self.nvtx)),
            "VTRAIN_RUN_ID": self.run_id,
            "VTRAIN_MAX_ROWS": str(self.max_rows),
            "VTRAIN_RANKS": self.ranks,
            "VTRAIN_AT": self.at,
            "VTRAIN_KERNEL_STEPS": str(self.kernel_steps),
        }

    @classmethod
    def from_environment(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Settings from ``VTRAIN_OUT``, ``VTRAIN_WARMUP``, ``VTRAIN_STEPS``, ..."""
        return cls(
            out=env.get("VTRAIN_OUT", ""),
            warmup=_integer(env, "VTRAIN_WARMUP", cls.warmup),
            steps=_integer(env, "VTRAIN_STEPS", cls.steps),
            operators=_boolean(env, "VTRAIN_OPERATORS", cls.operators),
            kernels=_boolean(env, "VTRAIN_KERNELS", cls.kernels),
            nvtx=_boolean(env, "VTRAIN_NVTX", cls.nvtx),
            run_id=env.get("VTRAIN_RUN_ID", ""),
            max_rows=_integer(env, "VTRAIN_MAX_ROWS", cls.max_rows),
            ranks=env.get("VTRAIN_RANKS", "").strip(),
            at=env.get("VTRAIN_AT", "").strip(),
            kernel_steps=_integer(env, "VTRAIN_KERNEL_STEPS", cls.kernel_steps),
        )


def _integer(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, "").strip()
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise SettingsError(f"{name} is {text!r}: it takes a whole number") from None


def _boolean(env: Mapping[str, str], name: str, default: bool) -> bool:
    if name not in env:
        return default
    text = env[name].strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise SettingsError(f"{name} is {env[name]!r}: it takes 1 or 0")
