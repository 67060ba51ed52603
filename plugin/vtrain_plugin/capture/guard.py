"""The promise that nothing inside the plugin reaches training.

Every hook and patch runs through a `Guard`. The first error is reported on stderr in one line, and
from then on all of them do nothing; the same holds where a capture ends.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Guard:
    """Runs the plugin's own code; on the first error reports it, switches off and calls `on_error`.

    failed: after an error. off: `run` does nothing any more, after an error or because the capture is over.
    """

    def __init__(self) -> None:
        self.failed = False
        self.off = False
        self.on_error: Callable[[], None] | None = None

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """`function`'s result, or None after any exception in it, and where switched off."""
        if self.off:
            return None
        try:
            return function(*args, **kwargs)
        except Exception as error:
            self.fail(error)
            return None

    def fail(self, error: BaseException) -> None:
        """Report `error` once and switch the capture off."""
        if self.failed:
            return
        self.failed = self.off = True
        where = traceback.extract_tb(error.__traceback__)
        place = f" at {os.path.basename(where[-1].filename)}:{where[-1].lineno}" if where else ""
        report(f"capture switched off, training goes on: {type(error).__name__}: {error}{place}")
        if os.environ.get("VTRAIN_DEBUG"):
            traceback.print_exception(type(error), error, error.__traceback__)
        if self.on_error is not None:
            try:
                self.on_error()
            except Exception as second:
                report(f"while switching off: {type(second).__name__}: {second}")


def report(message: str) -> None:
    """One line on stderr, marked with the rank; never raises (stderr may be closed)."""
    rank = os.environ.get("RANK")
    prefix = f"vtrain[rank {rank}]" if rank is not None else "vtrain"
    try:
        print(f"{prefix}: {message}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass
