"""Trains for some steps, asks for captures while it does, and prints what is left of the plugin at the end.

Arguments: output directory, what ``at`` is, number of steps, and steps (comma separated) before which to ask.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import vtrain_plugin
from plugin.toy_training import ToyTraining, replaced_functions
from vtrain_plugin.capture import moments


def ask(at: str) -> None:
    if at.startswith("file:"):
        Path(at[len("file:") :]).write_text("now")
        time.sleep(0.2)
    else:
        os.kill(os.getpid(), getattr(signal, at))


def main() -> None:
    out, at, steps, when = sys.argv[1:5]
    moments._POLL_S = 0.02
    training = ToyTraining()
    before = replaced_functions()
    expected = training.run(int(steps))
    vtrain_plugin.enable(out, steps=2, at=at, nvtx=False)
    asked = {int(step) for step in when.split(",") if step}
    count = [0]
    forward = training._forward_step

    def asking(iterator: object, model: object) -> object:
        # Two microbatches a step.
        if count[0] % 2 == 0 and count[0] // 2 in asked:
            ask(at)
        count[0] += 1
        return forward(iterator, model)  # type: ignore[arg-type]

    training._forward_step = asking  # type: ignore[method-assign,assignment]
    same = training.run(int(steps)) == expected
    hooks = training.hooks_left()
    vtrain_plugin.disable()
    print("same losses:", same, "hooks:", hooks, "restored:", replaced_functions() == before)
    if not at.startswith("file:") and not at[0].isdigit():
        ask(at)  # the default of the signal would end the process
        print("alive")


if __name__ == "__main__":
    main()
