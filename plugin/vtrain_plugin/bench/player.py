"""Megatron-Core's own modules at the shard shapes of one rank of any world, on one device.

A fake process group answers every collective at once, so forward, backward and optimizer of the
rank's shard run for real and are captured by the plugin; only communication takes no time. Values
are meaningless, times of compute are real.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from vtrain_plugin.bench.device import BenchDevice

if TYPE_CHECKING:
    import torch
    from megatron.core.optimizer.optimizer import MegatronOptimizer
    from megatron.core.transformer.spec_utils import ModuleSpec
    from megatron.core.transformer.transformer_config import TransformerConfig


class Player:
    """Builds the rank's shard and trains it."""

    def __init__(self, args: argparse.Namespace, device: BenchDevice) -> None:
        import torch
        import torch.distributed as dist
        from torch.testing._internal.distributed.fake_pg import FakeStore

        self.args, self.device, self.torch = args, device, torch
        self.dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
        dist.init_process_group("fake", store=FakeStore(), rank=args.rank, world_size=args.world_size)
        _fill_received()
        from megatron.core import parallel_state, tensor_parallel

        parallel_state.initialize_model_parallel(
            args.tensor_model_parallel_size,
            args.pipeline_model_parallel_size,
            expert_model_parallel_size=args.expert_model_parallel_size,
            context_parallel_size=args.context_parallel_size,
            **_accepted(parallel_state.initialize_model_parallel, create_gloo_process_groups=False),
        )
        tensor_parallel.model_parallel_cuda_manual_seed(1)
        self.state = parallel_state
        self.config = self._config()
        self.model = self._model()
        self.optimizer = self._optimizer()

    def _config(self) -> TransformerConfig:
        from megatron.core.transformer.transformer_config import TransformerConfig

        args = self.args
        pp = args.pipeline_model_parallel_size
        options = {
            "num_layers": args.layers * pp if args.layers else args.num_layers,
            "hidden_size": args.hidden_size,
            "ffn_hidden_size": args.ffn_hidden_size or None,
            "num_attention_heads": args.num_attention_heads,
            "num_query_groups": args.num_query_groups or None,
            "normalization": args.normalization,
            "pipeline_dtype": self.dtype,
            "params_dtype": self.dtype,
            "bf16": args.bf16,
            "fp16": args.fp16,
            "tensor_model_parallel_size": args.tensor_model_parallel_size,
            "pipeline_model_parallel_size": pp,
            "sequence_parallel": args.sequence_parallel,
            "expert_model_parallel_size": args.expert_model_parallel_size,
            "context_parallel_size": args.context_parallel_size,
            "hidden_dropout": 0.0,
            "attention_dropout": 0.0,
            "add_bias_linear": not (args.disable_bias_linear or args.num_experts),
            **self._choices(),
        }
        return TransformerConfig(**_accepted(TransformerConfig, **options))

    def _choices(self) -> dict[str, object]:
        """Options of the configuration that depend on switches and on the device."""
        args, torch = self.args, self.torch
        more: dict[str, object] = {}
        if args.swiglu:
            more |= {"gated_linear_unit": True, "activation_func": torch.nn.functional.silu}
        if args.recompute_full:
            more |= {
                "recompute_granularity": "full",
                "recompute_method": "uniform",
                "recompute_num_layers": 1,
            }
        if args.num_experts:
            more |= {
                "num_moe_experts": args.num_experts,
                "moe_router_topk": args.moe_router_topk,
                "moe_token_dispatcher_type": "alltoall",
                "moe_router_force_load_balancing": True,
            }
        if not self.device.cuda:
            more |= dict.fromkeys(
                (
                    "gradient_accumulation_fusion",
                    "bias_dropout_fusion",
                    "masked_softmax_fusion",
                    "bias_activation_fusion",
                    "apply_rope_fusion",
                ),
                False,
            )
        return more

    def _model(self) -> torch.nn.Module:
        from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
        from megatron.core.enums import ModelType
        from megatron.core.models.gpt.gpt_model import GPTModel
        from megatron.core.transformer.module import Float16Module

        args = self.args
        model = GPTModel(
            self.config,
            _layer_spec(args),
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
            options, [self.model], **_accepted(get_megatron_optimizer, use_gloo_process_groups=False)
        )
        self.config.finalize_model_grads_func = finalize_model_grads
        self.config.grad_scale_func = optimizer.scale_loss
        return optimizer

    def train(self, steps: int) -> None:
        """Run whole training steps."""
        from megatron.core.pipeline_parallel import get_forward_backward_func

        args, device = self.args, self.device.device
        s, b = args.seq_length, args.micro_batch_size
        tokens = self.torch.randint(0, args.vocab_size, (b, s), device=device)
        positions = self.torch.arange(s, device=device)[None].expand(b, -1)
        mask = self.torch.tril(self.torch.ones(1, 1, s, s, device=device)) < 0.5

        def forward_step(iterator: object, model: torch.nn.Module) -> object:
            return model(tokens, positions, mask, labels=tokens), lambda out: (out.float().mean(), {})

        schedule = get_forward_backward_func()
        for _ in range(steps):
            self.model.zero_grad_buffer()
            self.optimizer.zero_grad()
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


def _layer_spec(args: argparse.Namespace) -> ModuleSpec:
    from megatron.core.models.gpt import gpt_layer_specs

    options = {"num_experts": args.num_experts or None, "moe_grouped_gemm": False}
    try:
        import transformer_engine  # noqa: F401

        make: Callable[..., ModuleSpec] = gpt_layer_specs.get_gpt_layer_with_transformer_engine_spec
    except ImportError:
        make = gpt_layer_specs.get_gpt_layer_local_spec
        options["normalization"] = args.normalization
    return make(**_accepted(make, **options))


def _accepted(function: Callable[..., object], **options: object) -> dict[str, object]:
    """The options that this version of Megatron-Core takes."""
    names = inspect.signature(function).parameters
    return {k: v for k, v in options.items() if k in names}


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
