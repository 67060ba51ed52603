"""The run id that the ranks of a capture share, without one of them ever waiting for another.

Whichever rank asks first names the capture: one atomic operation of the job's own key-value store, which needs no
other rank to be there, made by a thread, so that not even a store that hangs holds training up. Rows are kept in
memory until the answer is there; a rank that gets none writes a run of its own.
"""

from __future__ import annotations

import threading
import time
from itertools import count
from typing import Protocol

from vtrain_plugin.capture.guard import report
from vtrain_plugin.capture.process import new_run_id

_captures = count()


class Store(Protocol):
    """What is used of ``torch.distributed.Store``."""

    def compare_set(self, key: str, expected: str, desired: str) -> bytes: ...


def next_capture() -> int:
    """Ordinal of a capture in this process; ranks are armed in the same order."""
    return next(_captures)


class CaptureId:
    """A name that the captures of all ranks share and that no other capture has; asked for when made.

    capture: its ordinal in the process. step: the first step that is recorded: ranks that record different
    steps are different captures. store: of the job; None for a process on its own.
    """

    def __init__(self, capture: int, step: int, store: Store | None) -> None:
        self._mine = new_run_id()
        self._agreed: str | None = None
        self._thread: threading.Thread | None = None
        if store is None:
            self._agreed = self._mine
        else:
            arguments = (store, f"vtrain/run_id/{capture}/{step}")
            self._thread = threading.Thread(target=self._ask, args=arguments, name="vtrain-run-id", daemon=True)
            self._thread.start()

    def _ask(self, store: Store, key: str) -> None:
        try:
            answer = store.compare_set(key, "", self._mine)
            # Later than somebody was ready to wait for, it would be the id of other files.
            self._agreed = self._agreed or (answer.decode() if isinstance(answer, bytes) else str(answer))
        except Exception as error:
            self._refused(f"{type(error).__name__}: {error}")

    def _refused(self, reason: str) -> None:
        report(f"the job's store names no run ({reason}): this rank writes run {self._mine!r} of its own")
        self._agreed = self._mine

    def known(self) -> bool:
        """Whether there is an answer."""
        return self._agreed is not None

    def value(self, within_s: float) -> str:
        """The name; this process's own where the store gives none in time. Waits up to `within_s` seconds."""
        deadline = time.monotonic() + within_s
        while self._agreed is None:
            if time.monotonic() >= deadline:
                self._refused(f"no answer in {within_s:g} s")
                break
            time.sleep(0.001)
        assert self._agreed is not None
        return self._agreed


def job_store() -> Store | None:
    """The store of the process group; None outside one, in a world of one, and in one that is played."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return None
    if dist.get_world_size() == 1 or dist.get_backend() == "fake":
        return None
    from torch.distributed import distributed_c10d

    store: Store = distributed_c10d._get_default_store()
    return store
