"""Trains in one process: groups of captured steps, of the steps after them, and of plain ones, again and again.

Writes a JSON object: mean seconds of a step in each group ("captured", "after", "plain"), from the start of an
iteration to that of the next one. A capture ends by itself, and is written during the steps after it: all that it does
while training goes on is in one of the two. The step that puts the hooks in is in neither.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time

GROUP = 4
KINDS = ("captured", "after", "plain")


class Clock:
    """What the training script calls at the start of every iteration: keeps the time, and switches the capture."""

    def __init__(self, options: dict[str, bool]) -> None:
        self.options = options
        self.directory = tempfile.mkdtemp()
        self.times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.iteration = 0
        self.begin = 0.0
        self.inside = False

    def perf_counter(self) -> float:
        """Called at both ends of an iteration."""
        self.inside = not self.inside
        if not self.inside:
            return time.perf_counter()
        group, step = divmod(self.iteration, GROUP)
        if step == 0:
            self._next_group(group)
        if step == (1 if self._kind(group) == "captured" else 0):
            self.begin = time.perf_counter()
        self.iteration += 1
        return time.perf_counter()

    @staticmethod
    def _kind(group: int) -> str:
        # The first group warms up, and is plain.
        return KINDS[(group - 1) % len(KINDS)]

    def _next_group(self, group: int) -> None:
        import vtrain_plugin

        if group > 1:
            kind = self._kind(group - 1)
            steps = GROUP - 1 if kind == "captured" else GROUP
            self.times[kind].append((time.perf_counter() - self.begin) / steps)
        if self._kind(group) == "captured":
            vtrain_plugin.disable()
            vtrain_plugin.enable(
                out=self.directory, warmup=0, steps=GROUP, run_id=f"r{group}", nvtx=False, **self.options
            )


def main() -> None:
    script, mode, out = sys.argv[1:4]
    sys.argv = [script, *sys.argv[4:]]
    from support import train_gpt

    clock = Clock({"operators": mode != "spans", "kernels": mode == "kernels"})
    train_gpt.time = clock  # type: ignore[assignment]
    train_gpt.main()
    with open(out, "w") as stream:
        json.dump(clock.times, stream)


if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/benchmarks/")[0])
    main()
