"""A capture with ``--kernels`` beside a session of torch.profiler of the script's own, one for each way they can meet.

Arguments: output directory, and how: "before" (the script's runs already), "prepared" (its schedule warms up),
"late" (it runs before the plugin is armed), "during" (it starts inside the captured step).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torch.profiler import ProfilerActivity, profile, schedule

import vtrain_plugin
from plugin.toy_training import ToyTraining


def main() -> None:
    out, how = sys.argv[1:3]
    training = ToyTraining()
    options: dict[str, Any] = {"activities": [ProfilerActivity.CPU]}
    if how == "prepared":
        options["schedule"] = schedule(wait=0, warmup=1, active=1)
    theirs = profile(**options)
    if how == "late":
        theirs.start()
    vtrain_plugin.enable(out, warmup=1, steps=1, kernels=True, nvtx=False, run_id="r")
    if how in ("before", "prepared"):
        theirs.start()
    calls = [0]

    def start_in_second_step(*arguments: object) -> None:
        calls[0] += 1
        if how == "during" and calls[0] == 4:
            theirs.start()

    training.model.register_forward_pre_hook(start_in_second_step)
    training.run(3)
    if how == "prepared":
        theirs.step()
        training.run(1)
    theirs.stop()
    theirs.export_chrome_trace(f"{out}/theirs.json")
    names = {event["name"] for event in json.loads(Path(f"{out}/theirs.json").read_text())["traceEvents"]}
    print("theirs is whole" if "aten::mm" in names or "aten::addmm" in names else names)


if __name__ == "__main__":
    main()
