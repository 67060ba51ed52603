"""Trains with ``vtrain_plugin.profile`` around the loop, then checks that no hook is left."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch.distributed as dist

import vtrain_plugin
from support import train_gpt


def fingerprint() -> dict[str, object]:
    """The functions and methods that a capture replaces."""
    from megatron.core.distributed import DistributedDataParallel
    from megatron.core.models.common.language_module.language_module import LanguageModule
    from megatron.core.optimizer.optimizer import ChainedOptimizer, FP32Optimizer
    from megatron.core.pipeline_parallel import schedules

    return {
        "forward_step": schedules.forward_step,
        "backward_step": schedules.backward_step,
        "zero_grad_buffer": DistributedDataParallel.zero_grad_buffer,
        "loss": LanguageModule.compute_language_model_loss,
        "step": FP32Optimizer.step,
        "chained": ChainedOptimizer.step,
        "all_reduce": dist.all_reduce,
        "isend": dist.isend,
        "wait": dist.Work.wait,
    }


def main() -> None:
    out = sys.argv[1]
    sys.argv = [
        "train",
        "--num-layers",
        "2",
        "--hidden-size",
        "64",
        "--seq-length",
        "32",
        "--vocab-size",
        "128",
        "--train-iters",
        "4",
    ]
    from support import cpu_shims

    cpu_shims.apply()
    before = fingerprint()
    models = []
    original = train_gpt.build_model
    train_gpt.build_model = lambda *a: models.extend(m := original(*a)) or m
    with vtrain_plugin.profile(out=out, warmup=1, steps=2, run_id="api") as session:
        train_gpt.main()
    assert session is not None
    assert session.finished
    after = fingerprint()
    changed = [name for name in before if before[name] is not after[name]]
    assert not changed, changed
    for module in models[0].modules():
        assert not module._forward_pre_hooks, module
        assert not module._forward_hooks, module
    print("clean")


if __name__ == "__main__":
    main()
