"""Megatron-Core's GPT, small enough to train hundreds of times in one process, over a fake process group of two ranks."""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _coalescing_manager
from torch.testing._internal.distributed.fake_pg import FakeStore

from support import cpu_shims, train_gpt

FLAGS = [
    "--num-layers",
    "1",
    "--hidden-size",
    "16",
    "--num-attention-heads",
    "2",
    "--seq-length",
    "8",
    "--vocab-size",
    "16",
]


class ToyTraining:
    """One model, trained from the same parameters on the same tokens at every call of `run`."""

    def __init__(self, rank: int = 0) -> None:
        sys.argv = ["train", *FLAGS]
        args = train_gpt.parse_arguments()
        args.virtual_chunks = 1
        torch.set_num_threads(1)
        cpu_shims.apply()
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=2)
        from megatron.core import parallel_state, tensor_parallel
        from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

        options = train_gpt.accepted(parallel_state.initialize_model_parallel, create_gloo_process_groups=False)
        parallel_state.initialize_model_parallel(1, 1, **options)
        tensor_parallel.model_parallel_cuda_manual_seed(1)
        self.config = train_gpt.build_config(args, torch.float32)
        (inner,) = train_gpt.build_model(args, self.config)
        ddp = DistributedDataParallelConfig(overlap_grad_reduce=True, grad_reduce_in_fp32=True)
        self.model = DistributedDataParallel(self.config, ddp, inner)
        self._initial = copy.deepcopy(self.model.state_dict())
        generator = torch.Generator().manual_seed(3)
        self._tokens = torch.randint(0, 16, (1, 9), generator=generator)
        self._mask = torch.tril(torch.ones(1, 1, 8, 8)) < 0.5

    def run(self, steps: int) -> list[tuple[float, float]]:
        """Loss and gradient norm of each step."""
        from megatron.core.distributed import finalize_model_grads
        from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
        from megatron.core.pipeline_parallel import get_forward_backward_func

        self.model.load_state_dict(self._initial)
        options = train_gpt.accepted(get_megatron_optimizer, use_gloo_process_groups=False)
        settings = OptimizerConfig(optimizer="sgd", lr=0.1, clip_grad=1.0)
        optimizer = get_megatron_optimizer(settings, [self.model], **options)
        self.config.finalize_model_grads_func = finalize_model_grads
        self.config.grad_scale_func = optimizer.scale_loss
        self.config.no_sync_func = self.model.no_sync
        results = []
        for _ in range(steps):
            self.model.zero_grad_buffer()
            optimizer.zero_grad()
            losses = get_forward_backward_func()(
                forward_step_func=self._forward_step,
                data_iterator=None,
                model=self.model,
                num_microbatches=2,
                seq_length=8,
                micro_batch_size=1,
                forward_only=False,
            )
            _, norm, _ = optimizer.step()
            results.append((sum(float(entry["loss"]) for entry in losses), float(norm)))
        return results

    def _forward_step(self, iterator: object, model: torch.nn.Module) -> Any:
        communicate()
        tokens = self._tokens
        output = model(
            tokens[:, :-1].contiguous(), torch.arange(8)[None], self._mask, labels=tokens[:, 1:].contiguous()
        )
        return output, lambda out: (out.mean(), {"loss": out.detach().mean()})

    def hooks_left(self) -> list[str]:
        """The modules that still have hooks."""
        named = self.model.named_modules()
        return [name for name, m in named if m._forward_hooks or m._forward_pre_hooks]


def communicate() -> None:
    """One call of every kind of communication."""
    tensor, peer = torch.ones(4), 1 - dist.get_rank()
    dist.all_reduce(tensor)
    dist.all_reduce(tensor, async_op=True).wait()
    dist.send(tensor, peer)
    dist.recv(tensor, peer)
    work = dist.isend(tensor, peer)
    assert work is not None
    work.wait()
    operations = [dist.P2POp(dist.isend, tensor, peer), dist.P2POp(dist.irecv, tensor, peer)]
    for work in dist.batch_isend_irecv(operations):
        work.wait()
    with _coalescing_manager(device=torch.device("cpu"), async_ops=True) as manager:
        dist.all_reduce(tensor)
        dist.all_reduce(tensor)
    manager.wait()


def replaced_functions() -> dict[str, object]:
    """Functions and methods that a capture replaces, as they are now."""
    from megatron.core.distributed import DistributedDataParallel
    from megatron.core.models.common.language_module.language_module import LanguageModule
    from megatron.core.optimizer.optimizer import FP32Optimizer
    from megatron.core.pipeline_parallel import schedules

    owners: list[tuple[object, str]] = [
        (schedules, "forward_step"),
        (schedules, "backward_step"),
        (DistributedDataParallel, "zero_grad_buffer"),
        (LanguageModule, "compute_language_model_loss"),
        (FP32Optimizer, "step"),
        (dist.distributed_c10d, "all_reduce"),
        (dist, "all_reduce"),
        (dist, "batch_isend_irecv"),
        (dist.distributed_c10d, "_coalescing_manager"),
        (dist.Work, "wait"),
        (dist.ProcessGroup, "send"),
        (dist.ProcessGroup, "recv"),
    ]
    return {f"{owner}.{name}": getattr(owner, name) for owner, name in owners}
