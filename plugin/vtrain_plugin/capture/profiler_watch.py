"""Other sessions of torch.profiler in this process, which ours must never meet.

Kineto holds one session a process: a second one that is prepared, started or stopped takes the first one's results,
and exporting those ends in a segmentation fault. So ours does not start while another is prepared or running, and
stops before another begins.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vtrain_plugin.capture.guard import report
from vtrain_plugin.capture.patches import Function, Patches

# Functions that every session of torch.autograd.profiler and torch.profiler goes through, in this order.
_BEGIN = ("_prepare_profiler", "_enable_profiler")
_END = "_disable_profiler"


class ProfilerWatch:
    """Knows whether a session that is not ours is prepared or running.

    before_other: called before another session begins; must leave none of ours.
    """

    def __init__(self, patches: Patches) -> None:
        import torch.autograd.profiler as profiler

        self.before_other: Callable[[], None] | None = None
        self.others = _session_under_way()
        self._ours = False
        for name in _BEGIN:
            patches.wrap(profiler, name, self._wrap_begin)
        patches.wrap(profiler, _END, self._wrap_end)

    @contextmanager
    def ours(self) -> Iterator[None]:
        """What the profiler does inside is our own session's."""
        self._ours = True
        try:
            yield
        finally:
            self._ours = False

    def _wrap_begin(self, original: Function) -> Function:
        def begin(*args: Any, **kwargs: Any) -> Any:
            if not self._ours:
                self._make_way()
            return original(*args, **kwargs)

        return begin

    def _wrap_end(self, original: Function) -> Function:
        def end(*args: Any, **kwargs: Any) -> Any:
            if not self._ours:
                self.others = False
            return original(*args, **kwargs)

        return end

    def _make_way(self) -> None:
        """Not through the guard: a capture that has failed may still have its session running."""
        self.others = True
        if self.before_other is None:
            return
        try:
            self.before_other()
        except Exception as error:
            report(f"while making way for another profiler: {type(error).__name__}: {error}")


def _session_under_way() -> bool:
    """Whether a session was prepared or started before anybody watched, and has no results yet."""
    import torch
    from torch.autograd.profiler import profile

    if torch.autograd._profiler_enabled():
        return True
    sessions = (thing for thing in gc.get_objects() if type(thing) is profile)
    return any(session.entered and session.kineto_results is None for session in sessions)
