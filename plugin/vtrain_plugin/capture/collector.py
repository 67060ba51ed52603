"""Python's garbage collector while steps are recorded."""

from __future__ import annotations

import gc


class QuietCollector:
    """Keeps full collections short.

    What a capture records makes the collector run more often, and a full collection looks through every object of the
    process: a tenth of a second beside torch and Megatron-Core. Objects that are there already are left out of it for
    some steps; none of them is lost. A process that has done so itself is left alone.
    """

    def __init__(self) -> None:
        self._frozen = False

    def begin(self) -> None:
        """Leave out what is there."""
        if not self._frozen and not gc.get_freeze_count():
            gc.freeze()
            self._frozen = True

    def end(self) -> None:
        """Have everything looked through again."""
        if self._frozen:
            self._frozen = False
            gc.unfreeze()
