"""Megatron-Core's own modules at the shard shapes of one rank of any world, on one device.

A fake process group answers every collective at once, so forward, backward and optimizer of the
rank's shard run for real and are captured by the plugin; only communication takes no time. Values
are meaningless, times of compute are real.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from vtrain_plugin.bench.choices import Choices
from vtrain_plugin.bench.device import BenchDevice
from vtrain_plugin.bench.player_config import accepted, block_spec, transformer_config
from vtrain_plugin.bench.step_queue import step_queue

if TYPE_CHECKING:
    import torch
    from megatron.core.optimizer.optimizer import MegatronOptimizer


class Player:
    """Builds the rank's shard and trains it."""

    def __init__(self, args: argparse.Namespace, device: BenchDevice, choices: Choices) -> None:
        import torch
        import torch.distributed as dist
        from torch.testing._internal.distributed.fake_pg import FakeStore

        self.args, self.device, self.torch, self.choices = args, device, torch, choices
        self.dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
        dist.init_process_group("fake", store=FakeStore(), rank=args.rank, world_size=args.world_size)
        _fill_received()
        from megatron.core import parallel_state, tensor_parallel

        parallel_state.initialize_model_parallel(
            args.tensor_model_parallel_size,
            args.pipeline_model_parallel_size,
            expert_model_parallel_size=args.expert_model_parallel_size,
            context_parallel_size=args.context_parallel_size,
            **accepted(
                parallel_state.initialize_model_parallel,
                create_gloo_process_groups=False,
                expert_tensor_parallel_size=args.expert_tensor_parallel_size or None,
            ),
        )
        tensor_parallel.model_parallel_cuda_manual_seed(1)
        self.state = parallel_state
        self.config = transformer_config(args, choices, self.dtype)
        self.layers_built = 0
        self.model = self._model()
        self.optimizer = self._optimizer()
        self.queue = step_queue(device)

    def _model(self) -> torch.nn.Module:
        from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
        from megatron.core.enums import ModelType
        from megatron.core.models.gpt.gpt_model import GPTModel
        from megatron.core.transformer.module import Float16Module

        args = self.args
        spec = block_spec(self.config, args, self.choices)
        self.layers_built = len(spec.layer_specs)
        model = GPTModel(
            self.config,
            spec,
            vocab_size=args.vocab_size,
            max_sequence_length=args.seq_length,
            pre_process=self.state.is_pipeline_first_stage(),
            post_process=self.state.is_pipeline_last_stage(),
            share_embeddings_and_output_weights=not args.untie_embeddings_and_output_weights,
            position_embedding_type=args.position_embedding_type,
        )
        model.model_type = ModelType.encoder_or_decoder
        model = model.to(self.device.device)
        if args.bf16 or args.fp16:
            model = Float16Module(self.config, model)
        ddp = DistributedDataParallelConfig(
            use_distributed_optimizer=args.use_distributed_optimizer, grad_reduce_in_fp32=True
        )
        return DistributedDataParallel(self.config, ddp, model)

    def _optimizer(self) -> MegatronOptimizer:
        from megatron.core.distributed import finalize_model_grads
        from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer

        args = self.args
        options = OptimizerConfig(
            optimizer="adam",
            lr=1e-4,
            bf16=args.bf16,
            fp16=args.fp16,
            params_dtype=self.dtype,
            use_distributed_optimizer=args.use_distributed_optimizer,
        )
        optimizer = get_megatron_optimizer(
            options, [self.model], **accepted(get_megatron_optimizer, use_gloo_process_groups=False)
        )
        self.config.finalize_model_grads_func = finalize_model_grads
        self.config.grad_scale_func = optimizer.scale_loss
        return optimizer

    def train(self, warmup: int, steps: int, begin: Callable[[], object]) -> None:
        """Run whole training steps. begin: called before each."""
        from megatron.core.pipeline_parallel import get_forward_backward_func

        args, device = self.args, self.device.device
        s, b = args.seq_length, args.micro_batch_size
        tokens = self.torch.randint(0, args.vocab_size, (b, s), device=device)
        positions = self.torch.arange(s, device=device)[None].expand(b, -1)
        mask = self.torch.tril(self.torch.ones(1, 1, s, s, device=device)) < 0.5

        def forward_step(iterator: object, model: torch.nn.Module) -> object:
            self.queue.look()
            return model(tokens, positions, mask, labels=tokens), lambda out: (out.float().mean(), {})

        schedule = get_forward_backward_func()
        for step in range(warmup + steps):
            begin()
            self.model.zero_grad_buffer()
            self.optimizer.zero_grad()
            with self.queue.kept_full(recorded=step >= warmup):
                schedule(
                    forward_step_func=forward_step,
                    data_iterator=None,
                    model=self.model,
                    num_microbatches=args.num_microbatches,
                    seq_length=s,
                    micro_batch_size=b,
                    forward_only=False,
                )
            self.optimizer.step()


def _fill_received() -> None:
    """A fake receive leaves memory as it was: put numbers there, or the model computes on NaN."""
    import torch.distributed as dist

    original = dist.batch_isend_irecv

    def batch_isend_irecv(operations: Iterable[torch.distributed.P2POp]) -> list[torch.distributed.Work]:
        for operation in operations:
            if "recv" in getattr(operation.op, "__name__", ""):
                operation.tensor.detach().normal_()
        works: list[torch.distributed.Work] = original(operations)
        return works

    dist.batch_isend_irecv = batch_isend_irecv
