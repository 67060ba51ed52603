"""Ends in one of several ways, all of them armed. Arguments: output directory, how; `VTRAIN_OUT` may arm it too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import vtrain_plugin


def plain_loop() -> None:
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()


def last_step_behind(training: object) -> None:
    """As on a GPU that has not passed the last marks when the script leaves its process group."""
    import torch.distributed as dist

    from vtrain_plugin.capture.clock import HostStep

    HostStep.ready = lambda self: not dist.is_initialized()  # type: ignore[method-assign]
    training.run(3)  # type: ignore[attr-defined]
    dist.destroy_process_group()


def main() -> None:
    out, how = sys.argv[1:3]
    if how == "environment":
        plain_loop()
        return
    vtrain_plugin.enable(out, warmup=1, steps=2, nvtx=False, run_id="r", ranks="1")
    if how == "plain":
        plain_loop()
        return
    from plugin.toy_training import ToyTraining

    training = ToyTraining(rank=1)
    if how == "destroyed":
        last_step_behind(training)
    elif how == "evaluation":
        with torch.no_grad():
            training.model(training._tokens[:, :8], torch.arange(8)[None], training._mask)
    elif how == "inside":
        training.run(1)
        training._forward_step = lambda *arguments: sys.exit(3)  # type: ignore[method-assign]
        training.run(1)
    elif how == "early":
        training.run(2)
        sys.exit("out of data")
    else:
        training.run(1)


if __name__ == "__main__":
    main()
