"""Trains in one process, with the capture switched on for every other group of steps."""

from __future__ import annotations

import json
import sys
import tempfile
import time

GROUP = 4


def main() -> None:
    script, mode, out = sys.argv[1:4]
    sys.argv = [script, *sys.argv[4:]]
    options = {"operators": mode != "spans", "kernels": mode == "kernels"}
    import vtrain_plugin

    times: dict[str, list[float]] = {"plain": [], "captured": []}
    state = {"begin": 0.0, "steps": 0, "session": None}
    directory = tempfile.mkdtemp()
    import torch.distributed as dist

    original = dist.init_process_group

    def patched(*args: object, **kwargs: object) -> object:
        result = original(*args, **kwargs)
        from megatron.core.distributed import DistributedDataParallel
        from megatron.core.optimizer.optimizer import ChainedOptimizer

        reset, step = DistributedDataParallel.zero_grad_buffer, ChainedOptimizer.step

        def zero_grad_buffer(self):  # type: ignore[no-untyped-def]
            state["begin"] = time.perf_counter()
            return reset(self)

        def timed_step(self, *a, **k):  # type: ignore[no-untyped-def]
            answer = step(self, *a, **k)
            at, number = time.perf_counter() - state["begin"], state["steps"]
            captured = (number // GROUP) % 2 == 1
            # The first step of a group installs hooks (or has none yet): it counts for neither.
            if number >= GROUP and number % GROUP:
                times["captured" if captured else "plain"].append(at)
            state["steps"] = number + 1
            return answer

        DistributedDataParallel.zero_grad_buffer = zero_grad_buffer
        ChainedOptimizer.step = timed_step
        return result

    dist.init_process_group = patched
    from support import train_gpt

    train = train_gpt.time

    class Clock:
        """Called at the start of every iteration: switches the capture."""

        def perf_counter(self) -> float:
            number = state["steps"]
            if number % GROUP == 0 and state.get("switched") != number:
                state["switched"] = number
                if (number // GROUP) % 2 == 1:
                    vtrain_plugin.enable(out=directory, warmup=0, steps=GROUP, run_id=f"r{number}", **options)
                else:
                    vtrain_plugin.disable()
            return train.perf_counter()

    train_gpt.time = Clock()
    train_gpt.main()
    with open(out, "w") as stream:
        json.dump(times, stream)


if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/benchmarks/")[0])
    main()
