"""Trains under a plugin whose own code fails in the middle of a step, wherever argument 1 says."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import vtrain_plugin
from support import train_gpt
from vtrain_plugin.adapters.megatron import classify, metadata
from vtrain_plugin.capture import rows
from vtrain_plugin.capture.collectives import CallRecorder
from vtrain_plugin.capture.modules import ModuleHooks
from vtrain_plugin.capture.recorder import Recorder


def fail(*args: object, **kwargs: object) -> None:
    raise ZeroDivisionError("a defect of the plugin")


PLACES = {
    "classify": (classify, "operator_of"),
    "stop": (Recorder, "stop"),
    "backward": (ModuleHooks, "_begin_backward"),
    "collective": (CallRecorder, "_issued"),
    "rows": (rows, "rows_of_step"),
    "metadata": (metadata, "run_columns"),
}


def main() -> None:
    place, out, *flags = sys.argv[1:]
    setattr(*PLACES[place], fail)
    vtrain_plugin.enable(out=out, warmup=1, steps=2)
    sys.argv = ["train", *flags]
    train_gpt.main()


if __name__ == "__main__":
    main()
