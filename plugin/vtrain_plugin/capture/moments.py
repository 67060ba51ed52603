"""When a capture begins: at steps known before, at a signal, or when a file appears.

A signal or a file reaches the ranks at slightly different times: the capture begins at the next step whose number is a
multiple of `ALIGNMENT`, so that all of them record the same steps unless such a step begins just then.
"""

from __future__ import annotations

import os
import signal
import threading
from abc import ABC, abstractmethod
from types import FrameType
from typing import Any

ALIGNMENT = 10
_POLL_S = 1.0
_FILE = "file:"
# Signals that mean nothing to a process by themselves.
_USABLE = ("SIGUSR1", "SIGUSR2", "SIGRTMIN", "SIGRTMAX")


class Moment(ABC):
    """Says with which steps captures begin. Steps are counted from 0, from when the process is armed."""

    @abstractmethod
    def next_step(self, steps_done: int) -> int | None:
        """The first step of the next capture; None while none is to come, or not yet known."""

    @abstractmethod
    def taken(self, until: int) -> None:
        """That capture has begun; it ends before step `until`."""

    @property
    @abstractmethod
    def exhausted(self) -> bool:
        """Whether no other capture will come."""

    @property
    @abstractmethod
    def missed(self) -> str:
        """Why no capture began, for a training run that is over."""

    def start(self) -> None:  # noqa: B027
        """Begin to watch. Raises ValueError, with a sentence, where that cannot be done."""

    def stop(self) -> None:  # noqa: B027
        """Watch no longer. Never raises."""


class AtSteps(Moment):
    """At steps known before."""

    def __init__(self, steps: tuple[int, ...], what: str) -> None:
        self._left = sorted(steps)
        self._what = what

    def next_step(self, steps_done: int) -> int | None:
        return max(self._left[0], steps_done) if self._left else None

    def taken(self, until: int) -> None:
        self._left = [step for step in self._left[1:] if step >= until]

    @property
    def exhausted(self) -> bool:
        return not self._left

    @property
    def missed(self) -> str:
        return f"before {self._what}"


class OnRequest(Moment):
    """At every request that comes while training runs."""

    def __init__(self) -> None:
        self._requested = False
        self._step: int | None = None

    def request(self) -> None:
        """Capture the next steps."""
        self._requested = True

    def next_step(self, steps_done: int) -> int | None:
        if self._requested and self._step is None:
            self._step = (steps_done // ALIGNMENT + 1) * ALIGNMENT
        return self._step

    def taken(self, until: int) -> None:
        self._requested, self._step = False, None

    @property
    def exhausted(self) -> bool:
        return False

    @property
    def missed(self) -> str:
        return f"before the capture that was asked for at step {self._step} began" if self._requested else self._waiting

    @property
    @abstractmethod
    def _waiting(self) -> str:
        """What did not come."""


class OnSignal(OnRequest):
    """At every signal of one kind. Whatever handled it before still does."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__()
        self._number = number
        self._before: Any = None

    def start(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise ValueError(f"{self._number.name} can only be waited for from the main thread")
        self._before = signal.signal(self._number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.request()
        if callable(self._before):
            self._before(number, frame)

    def stop(self) -> None:
        if self._before is None or signal.getsignal(self._number) != self._handle:
            return
        # One that comes late must not end the training, as it would by default.
        before = signal.SIG_IGN if self._before is signal.SIG_DFL else self._before
        try:
            signal.signal(self._number, before)
        except ValueError:
            pass  # not the main thread: the handler stays, and asks for captures that never begin

    @property
    def _waiting(self) -> str:
        return f"without a {self._number.name}"


class OnFile(OnRequest):
    """Whenever a file appears or is touched; a thread looks for it, so that a slow filesystem holds nobody up."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._over = threading.Event()

    def start(self) -> None:
        seen = self._modified()
        threading.Thread(target=self._watch, args=(seen,), name="vtrain-file", daemon=True).start()

    def _watch(self, seen: int | None) -> None:
        while not self._over.wait(_POLL_S):
            modified = self._modified()
            if modified is not None and modified != seen:
                self.request()
            seen = modified

    def _modified(self) -> int | None:
        try:
            return os.stat(self._path).st_mtime_ns
        except OSError:
            return None

    def stop(self) -> None:
        self._over.set()

    @property
    def _waiting(self) -> str:
        return f"without a file {self._path}"


def moment_of(at: str, warmup: int) -> Moment:
    """``--at``: step numbers (``100,5000``), a signal's name (``SIGUSR2``) or ``file:PATH``; "": after `warmup` steps.

    Raises ValueError, with a sentence, for anything else.
    """
    if not at:
        return AtSteps((warmup,), f"the {warmup} warm-up steps were over")
    if at.startswith(_FILE) and at != _FILE:
        return OnFile(os.path.abspath(at[len(_FILE) :]))
    if at in _USABLE:
        return OnSignal(signal.Signals[at])
    parts = [part.strip() for part in at.split(",")]
    if all(part.isdigit() for part in parts):
        return AtSteps(tuple(int(part) for part in parts), f"step {min(map(int, parts))}")
    raise ValueError(
        f"{at!r} is no moment: it takes step numbers such as 100,5000, a signal (SIGUSR1, SIGUSR2), or file:PATH"
    )
