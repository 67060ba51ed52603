"""One device plays one rank of any world: Megatron-Core's own modules at that rank's shard shapes.

A fake process group answers every collective at once, so forward, backward and optimizer of the
rank's shard run for real and are captured by the plugin; only communication takes no time. Values
are meaningless, times of compute are real.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
from collections.abc import Callable
from typing import Any

from vtrain_plugin import api

_INTEGERS = {
    "world-size": 0,
    "rank": 0,
    "tensor-model-parallel-size": 1,
    "pipeline-model-parallel-size": 1,
    "expert-model-parallel-size": 1,
    "context-parallel-size": 1,
    "num-layers": 0,
    "layers": 0,
    "hidden-size": 0,
    "ffn-hidden-size": 0,
    "num-attention-heads": 0,
    "num-query-groups": 0,
    "seq-length": 0,
    "vocab-size": 50304,
    "micro-batch-size": 1,
    "num-microbatches": 2,
    "num-experts": 0,
    "moe-router-topk": 2,
    "warmup": 2,
    "steps": 3,
}
_SWITCHES = (
    "sequence-parallel",
    "use-distributed-optimizer",
    "swiglu",
    "disable-bias-linear",
    "bf16",
    "fp16",
    "untie-embeddings-and-output-weights",
    "recompute-full",
    "kernels",
    "pin",
)


def parser() -> argparse.ArgumentParser:
    """Flags are Megatron's names."""
    result = argparse.ArgumentParser(prog="vtrain-profile rank", allow_abbrev=False)
    for name, default in _INTEGERS.items():
        result.add_argument(f"--{name}", type=int, default=default)
    for name in _SWITCHES:
        result.add_argument(f"--{name}", action="store_true")
    result.add_argument("--out", required=True)
    result.add_argument("--run-id", required=True)
    result.add_argument("--normalization", default="LayerNorm", choices=("LayerNorm", "RMSNorm"))
    result.add_argument("--position-embedding-type", default="rope", choices=("rope", "learned_absolute"))
    result.add_argument("--prelude", default="", help="module to import (and call apply() of) first")
    return result


def problem(args: argparse.Namespace) -> str:
    """Why these sizes cannot be played; empty where they can."""
    tp, pp, world = args.tensor_model_parallel_size, args.pipeline_model_parallel_size, args.world_size
    for name in ("num_layers", "hidden_size", "num_attention_heads", "seq_length"):
        if getattr(args, name) < 1:
            return f"--{name.replace('_', '-')} is missing: give the size of the whole model"
    if tp < 1 or pp < 1 or world < 1 or world % (tp * pp):
        return f"--world-size is {world}: it must be a multiple of tensor x pipeline parallel size ({tp * pp})"
    if not 0 <= args.rank < world:
        return f"--rank is {args.rank}: the world of {world} has ranks 0 to {world - 1}"
    if args.context_parallel_size > 1 and world % (tp * pp * args.context_parallel_size):
        return (
            f"--context-parallel-size is {args.context_parallel_size}: tensor x pipeline x context parallel size "
            f"must divide --world-size ({world})"
        )
    if args.num_attention_heads % tp:
        return f"--tensor-model-parallel-size is {tp}, which does not divide the {args.num_attention_heads} heads"
    if args.num_layers % pp:
        return f"--pipeline-model-parallel-size is {pp}, which does not divide the {args.num_layers} layers"
    return ""


def main(arguments: list[str] | None = None) -> None:
    """Play the rank and write its profile."""
    args = parser().parse_args(arguments)
    reason = problem(args)
    if reason:
        raise SystemExit(f"vtrain-profile rank: {reason}")
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    if args.prelude:
        importlib.import_module(args.prelude).apply()
    from vtrain_plugin.capture.device import BenchDevice

    device = BenchDevice(args.pin)
    session = api.enable(args.out, run_id=args.run_id, warmup=args.warmup, steps=args.steps, kernels=args.kernels)
    assert session is not None
    session.source = "rank"
    Player(args, device).train(args.warmup + args.steps)
    api.disable()


class Player:
    """Builds the rank's shard and trains it."""

    def __init__(self, args: argparse.Namespace, device: Any) -> None:
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
        self.model, self.optimizer = self._model()

    def _config(self) -> Any:
        from megatron.core.transformer.transformer_config import TransformerConfig

        args, torch = self.args, self.torch
        pp = args.pipeline_model_parallel_size
        layers = args.layers * pp if args.layers else args.num_layers
        more: dict[str, Any] = {}
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
        options = {
            "num_layers": layers,
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
            **more,
        }
        return TransformerConfig(**_accepted(TransformerConfig, **options))

    def _model(self) -> tuple[Any, Any]:
        from megatron.core.distributed import (
            DistributedDataParallel,
            DistributedDataParallelConfig,
            finalize_model_grads,
        )
        from megatron.core.enums import ModelType
        from megatron.core.models.gpt.gpt_model import GPTModel
        from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
        from megatron.core.transformer.module import Float16Module

        args = self.args
        model: Any = GPTModel(
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
        model = DistributedDataParallel(self.config, ddp, model)
        options = OptimizerConfig(
            optimizer="adam",
            lr=1e-4,
            bf16=args.bf16,
            fp16=args.fp16,
            params_dtype=self.dtype,
            use_distributed_optimizer=args.use_distributed_optimizer,
        )
        optimizer = get_megatron_optimizer(
            options, [model], **_accepted(get_megatron_optimizer, use_gloo_process_groups=False)
        )
        self.config.finalize_model_grads_func = finalize_model_grads
        self.config.grad_scale_func = optimizer.scale_loss
        return model, optimizer

    def train(self, steps: int) -> None:
        """Run whole training steps."""
        from megatron.core.pipeline_parallel import get_forward_backward_func

        torch, args, device = self.torch, self.args, self.device.device
        s, b = args.seq_length, args.micro_batch_size
        tokens = torch.randint(0, args.vocab_size, (b, s), device=device)
        positions = torch.arange(s, device=device)[None].expand(b, -1)
        mask = torch.tril(torch.ones(1, 1, s, s, device=device)) < 0.5

        def forward_step(iterator: Any, model: Any) -> Any:
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


def _layer_spec(args: argparse.Namespace) -> Any:
    from megatron.core.models.gpt import gpt_layer_specs

    options = {"num_experts": args.num_experts or None, "moe_grouped_gemm": False}
    try:
        import transformer_engine  # noqa: F401

        make: Callable[..., Any] = gpt_layer_specs.get_gpt_layer_with_transformer_engine_spec
    except ImportError:
        make = gpt_layer_specs.get_gpt_layer_local_spec
        options["normalization"] = args.normalization
    return make(**_accepted(make, **options))


def _accepted(function: Any, **options: Any) -> dict[str, Any]:
    """The options that this version of Megatron-Core takes."""
    names = inspect.signature(function).parameters
    return {k: v for k, v in options.items() if k in names}


def _fill_received() -> None:
    """A fake receive leaves memory as it was: put numbers there, or the model computes on NaN."""
    import torch.distributed as dist

    original = dist.batch_isend_irecv

    def batch_isend_irecv(operations: Any) -> Any:
        for operation in operations:
            if "recv" in getattr(operation.op, "__name__", ""):
                operation.tensor.detach().normal_()
        return original(operations)

    dist.batch_isend_irecv = batch_isend_irecv


if __name__ == "__main__":
    main()
