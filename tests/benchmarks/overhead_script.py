"""Trains in one process, with the capture switched on for every other group of steps.

Writes a JSON object: mean seconds of a step in each group, plain and captured, from the start of an iteration to that
of the next one. All that a capture does while training goes on is in them, its rows and files too; a group's first
step, which takes hooks out or puts them in, is not.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time

GROUP = 4


class Clock:
    """What the training script calls at the start of every iteration: keeps the time, and switches the capture."""

    def __init__(self, options: dict[str, bool]) -> None:
        self.options = options
        self.directory = tempfile.mkdtemp()
        self.times: dict[str, list[float]] = {"plain": [], "captured": []}
        self.iteration = 0
        self.begin = 0.0
        self.inside = False

    def perf_counter(self) -> float:
        """Called at both ends of an iteration."""
        self.inside = not self.inside
        if not self.inside:
            return time.perf_counter()
        group, step = divmod(self.iteration, GROUP)
        if step == 1:
            self.begin = time.perf_counter()
        if step == 0:
            self._next_group(group)
        self.iteration += 1
        return time.perf_counter()

    def _next_group(self, group: int) -> None:
        import vtrain_plugin

        # The first group warms up.
        if group > 1:
            seconds = (time.perf_counter() - self.begin) / (GROUP - 1)
            self.times["plain" if group % 2 else "captured"].append(seconds)
        vtrain_plugin.disable()
        if group % 2:
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
