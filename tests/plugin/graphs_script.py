"""Trains with CUDA graphs configured: says whether any module ever had a hook, and the losses with and without the plugin.

Argument 1: output directory; argument 2: "layers", or "iteration" for iterations that are one graph.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import vtrain_plugin
from plugin.toy_training import ToyTraining, replaced_functions


def replayed_iterations(training: ToyTraining) -> None:
    """Run the schedule as Megatron-Core's wrapper of full-iteration graphs does, less the graph."""
    from megatron.core import full_cuda_graph
    from megatron.core.pipeline_parallel import schedules

    original = schedules.get_forward_backward_func

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        # A replay calls no function of the schedule: not the ones that the plugin wraps.
        wrapped = {name: getattr(schedules, name) for name in ("forward_step", "backward_step")}
        for name, function in wrapped.items():
            setattr(schedules, name, getattr(function, "__wrapped__", function))
        try:
            return self.forward_backward_func(*args, **kwargs)
        finally:
            for name, function in wrapped.items():
                setattr(schedules, name, function)

    full_cuda_graph.FullCudaGraphWrapper.__call__ = call
    full_cuda_graph.StaticBufferLoader.__init__ = lambda self: None
    schedules_package = sys.modules["megatron.core.pipeline_parallel"]
    schedules_package.get_forward_backward_func = lambda: full_cuda_graph.FullCudaGraphWrapper(original())


def main() -> None:
    out, how = sys.argv[1:3]
    training = ToyTraining()
    training.config.cuda_graph_impl = "local"
    if how == "iteration":
        replayed_iterations(training)
    expected = training.run(3)
    before = replaced_functions()
    seen = []
    forward = training._forward_step

    def look(iterator: object, model: Any) -> Any:
        seen.extend(training.hooks_left())
        return forward(iterator, model)

    training._forward_step = look  # type: ignore[method-assign]
    vtrain_plugin.enable(out, warmup=1, steps=1, nvtx=False, run_id="r")
    same = training.run(3) == expected
    vtrain_plugin.disable()
    assert replaced_functions() == before
    print("hooks:", seen, "same losses:", same)


if __name__ == "__main__":
    main()
