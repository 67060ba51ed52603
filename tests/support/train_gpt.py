"""Trains a GPT of stock Megatron-Core on this machine's CPU, in any parallel layout.

A plain training script: it knows nothing of vtrain. Flags are Megatron's own names. Run with
``torchrun --nproc-per-node N tests/support/train_gpt.py FLAGS`` or directly for one process.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from support import cpu_shims  # noqa: E402


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    integers = {
        "tensor-model-parallel-size": 1,
        "pipeline-model-parallel-size": 1,
        "num-layers-per-virtual-pipeline-stage": 0,
        "context-parallel-size": 1,
        "expert-model-parallel-size": 1,
        "expert-tensor-parallel-size": 0,
        "num-layers": 4,
        "hidden-size": 256,
        "ffn-hidden-size": 0,
        "num-attention-heads": 4,
        "num-query-groups": 0,
        "seq-length": 256,
        "vocab-size": 1024,
        "micro-batch-size": 1,
        "global-batch-size": 2,
        "num-experts": 0,
        "moe-router-topk": 2,
        "moe-shared-expert-intermediate-size": 0,
        "decoder-first-pipeline-num-layers": 0,
        "mtp-num-layers": 0,
        "train-iters": 5,
        "threads": 1,
    }
    for name, default in integers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    for name in (
        "sequence-parallel",
        "use-distributed-optimizer",
        "overlap-grad-reduce",
        "overlap-param-gather",
        "bf16",
        "swiglu",
        "untie-embeddings-and-output-weights",
        "recompute-full",
        "recompute-selective",
        "quiet",
        "pin",
        "disable-bias-linear",
        "qk-layernorm",
        "overlap-moe-expert-parallel-comm",
    ):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--position-embedding-type", default="rope")
    parser.add_argument("--normalization", default="LayerNorm")
    parser.add_argument("--optimizer", default="adam")
    parser.add_argument("--moe-layer-freq", type=json.loads, default=1, help="a number, or a JSON list of 0 and 1")
    parser.add_argument("--torch-profile", default="", help="write a torch.profiler trace a rank into this folder")
    parser.add_argument("--times-out", default="", help="write step times as JSON here (rank 0)")
    return parser.parse_args()


def accepted(function: Any, **options: Any) -> dict[str, Any]:
    """The options that this version of a function or class takes."""
    names = inspect.signature(function).parameters
    return {k: v for k, v in options.items() if k in names}


def build_config(args: argparse.Namespace, dtype: torch.dtype) -> Any:
    from megatron.core.transformer.transformer_config import TransformerConfig

    interleaved = args.virtual_chunks > 1
    recompute: dict[str, Any] = {}
    if args.recompute_full:
        recompute = {
            "recompute_granularity": "full",
            "recompute_method": "uniform",
            "recompute_num_layers": 1,
        }
    if args.recompute_selective:
        recompute = {"recompute_granularity": "selective"}
    gated = {"gated_linear_unit": True, "activation_func": torch.nn.functional.silu} if args.swiglu else {}
    experts: dict[str, Any] = {}
    if args.num_experts:
        experts = {
            "expert_tensor_parallel_size": args.expert_tensor_parallel_size or None,
            "moe_layer_freq": args.moe_layer_freq,
            "moe_shared_expert_intermediate_size": args.moe_shared_expert_intermediate_size or None,
        }
    if args.overlap_moe_expert_parallel_comm:
        experts["overlap_moe_expert_parallel_comm"] = True
    uneven: dict[str, Any] = {}
    if args.decoder_first_pipeline_num_layers:
        uneven["num_layers_in_first_pipeline_stage"] = args.decoder_first_pipeline_num_layers
    return TransformerConfig(
        num_layers=args.num_layers,
        hidden_size=args.hidden_size,
        ffn_hidden_size=args.ffn_hidden_size or None,
        num_attention_heads=args.num_attention_heads,
        num_query_groups=args.num_query_groups or None,
        normalization=args.normalization,
        pipeline_dtype=dtype,
        params_dtype=dtype,
        bf16=args.bf16,
        tensor_model_parallel_size=args.tensor_model_parallel_size,
        pipeline_model_parallel_size=args.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=args.virtual_chunks if interleaved else None,
        context_parallel_size=args.context_parallel_size,
        sequence_parallel=args.sequence_parallel,
        expert_model_parallel_size=args.expert_model_parallel_size,
        num_moe_experts=args.num_experts or None,
        moe_router_topk=args.moe_router_topk,
        moe_token_dispatcher_type="alltoall",
        hidden_dropout=0.0,
        attention_dropout=0.0,
        gradient_accumulation_fusion=False,
        bias_dropout_fusion=False,
        bias_activation_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        deallocate_pipeline_outputs=False,
        attention_softmax_in_fp32=True,
        add_bias_linear=not (args.disable_bias_linear or args.num_experts),
        overlap_p2p_comm=interleaved,
        batch_p2p_comm=not interleaved,
        qk_layernorm=args.qk_layernorm,
        mtp_num_layers=args.mtp_num_layers or None,
        mtp_loss_scaling_factor=0.1,
        **gated,
        **recompute,
        **experts,
        **uneven,
    )


def build_model(args: argparse.Namespace, config: Any) -> list[Any]:
    from megatron.core import parallel_state
    from megatron.core.enums import ModelType
    from megatron.core.models.gpt.gpt_layer_specs import (
        get_gpt_decoder_block_spec,
        get_gpt_layer_local_spec,
        get_gpt_mtp_block_spec,
    )
    from megatron.core.models.gpt.gpt_model import GPTModel

    spec = get_gpt_layer_local_spec(
        **accepted(
            get_gpt_layer_local_spec,
            num_experts=args.num_experts or None,
            moe_grouped_gemm=False,
            qk_layernorm=args.qk_layernorm,
            normalization=args.normalization,
        )
    )
    if isinstance(args.moe_layer_freq, list):
        spec = get_gpt_decoder_block_spec(config, use_transformer_engine=False)
    predictions: dict[str, Any] = {}
    if args.mtp_num_layers:
        predictions["mtp_block_spec"] = get_gpt_mtp_block_spec(config, spec, use_transformer_engine=False)
    chunks = []
    for chunk in range(args.virtual_chunks):
        if args.virtual_chunks > 1:
            parallel_state.set_virtual_pipeline_model_parallel_rank(chunk)
        stage = accepted(parallel_state.is_pipeline_first_stage, ignore_virtual=False, vp_stage=chunk)
        if args.virtual_chunks == 1:
            stage = {}
        model = GPTModel(
            config,
            spec,
            vocab_size=args.vocab_size,
            max_sequence_length=args.seq_length,
            pre_process=parallel_state.is_pipeline_first_stage(**stage),
            post_process=parallel_state.is_pipeline_last_stage(**stage),
            share_embeddings_and_output_weights=not args.untie_embeddings_and_output_weights,
            position_embedding_type=args.position_embedding_type,
            **predictions,
            **(accepted(GPTModel.__init__, vp_stage=chunk) if args.virtual_chunks > 1 else {}),
        )
        model.model_type = ModelType.encoder_or_decoder
        chunks.append(model)
    return chunks


def main() -> None:
    args = parse_arguments()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if args.pin:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(args.threads)
    cpu_shims.apply()
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.distributed import DistributedDataParallel as DDP
    from megatron.core.distributed import DistributedDataParallelConfig, finalize_model_grads
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
    from megatron.core.pipeline_parallel import get_forward_backward_func
    from megatron.core.transformer.module import Float16Module

    # Alone it needs no port, which another run on the machine might hold.
    store = None if "MASTER_PORT" in os.environ else dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    pp = args.pipeline_model_parallel_size
    per_chunk = args.num_layers_per_virtual_pipeline_stage
    args.virtual_chunks = args.num_layers // pp // per_chunk if per_chunk else 1
    parallel_state.initialize_model_parallel(
        args.tensor_model_parallel_size,
        pp,
        virtual_pipeline_model_parallel_size=args.virtual_chunks if args.virtual_chunks > 1 else None,
        context_parallel_size=args.context_parallel_size,
        expert_model_parallel_size=args.expert_model_parallel_size,
        expert_tensor_parallel_size=args.expert_tensor_parallel_size or None,
    )
    tensor_parallel.model_parallel_cuda_manual_seed(1234)
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    config = build_config(args, dtype)
    model = build_model(args, config)
    if args.bf16:
        model = [Float16Module(config, m) for m in model]
    ddp_config = DistributedDataParallelConfig(
        use_distributed_optimizer=args.use_distributed_optimizer,
        overlap_grad_reduce=args.overlap_grad_reduce,
        overlap_param_gather=args.overlap_param_gather,
        grad_reduce_in_fp32=True,
    )
    model = [DDP(config, ddp_config, m, disable_bucketing=(i > 0)) for i, m in enumerate(model)]
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            **accepted(
                OptimizerConfig,
                optimizer=args.optimizer,
                lr=1e-3,
                bf16=args.bf16,
                params_dtype=dtype,
                clip_grad=1.0,
                use_distributed_optimizer=args.use_distributed_optimizer,
                overlap_param_gather=args.overlap_param_gather,
            )
        ),
        model,
    )
    config.finalize_model_grads_func = finalize_model_grads
    config.grad_scale_func = optimizer.scale_loss
    if args.overlap_grad_reduce:
        config.no_sync_func = [m.no_sync for m in model] if len(model) > 1 else model[0].no_sync

    generator = torch.Generator().manual_seed(7)
    causal = torch.tril(torch.ones(1, 1, args.seq_length, args.seq_length)) < 0.5
    positions = torch.arange(args.seq_length)[None].expand(args.micro_batch_size, -1)
    microbatches = args.global_batch_size // args.micro_batch_size // parallel_state.get_data_parallel_world_size()

    def batches() -> Any:
        while True:
            yield torch.randint(0, args.vocab_size, (args.micro_batch_size, args.seq_length + 1), generator=generator)

    def forward_step(iterator: Any, chunk: Any, return_schedule_plan: bool = False) -> Any:
        tokens = next(iterator)
        run = chunk.build_schedule_plan if return_schedule_plan else chunk
        output = run(tokens[:, :-1].contiguous(), positions, causal, labels=tokens[:, 1:].contiguous())
        return output, lambda out: (out.float().mean(), {"loss": out.detach().float().mean()})

    run_schedule = get_forward_backward_func()
    iterators: Any = [batches() for _ in model] if len(model) > 1 else batches()
    times = []
    profiler: Any = None
    if args.torch_profile:
        from torch.profiler import ProfilerActivity, profile, schedule

        # The last two steps, with a ProfilerStep# range each.
        profiler = profile(
            activities=[ProfilerActivity.CPU],
            record_shapes=True,
            with_stack=True,
            with_modules=True,
            schedule=schedule(wait=max(0, args.train_iters - 3), warmup=1, active=2),
        )
        profiler.start()
    for iteration in range(args.train_iters):
        if world > 1:
            dist.barrier()
        begin = time.perf_counter()
        for chunk in model:
            chunk.zero_grad_buffer()
        optimizer.zero_grad()
        losses = run_schedule(
            forward_step_func=forward_step,
            data_iterator=iterators,
            model=model if len(model) > 1 else model[0],
            num_microbatches=microbatches,
            seq_length=args.seq_length,
            micro_batch_size=args.micro_batch_size,
            forward_only=False,
        )
        _, norm, _ = optimizer.step()
        times.append(time.perf_counter() - begin)
        if profiler is not None:
            profiler.step()
        if losses and not args.quiet and parallel_state.get_tensor_model_parallel_rank() == 0:
            mean = sum(float(entry["loss"]) for entry in losses) / len(losses)
            print(
                f"[rank {rank}] iteration {iteration} loss {mean:.4f} grad norm {float(norm):.4f} "
                f"{times[-1] * 1e3:.1f} ms",
                flush=True,
            )
    if profiler is not None:
        profiler.stop()
        profiler.export_chrome_trace(os.path.join(args.torch_profile, f"rank{rank}.json"))
    if args.times_out and rank == 0:
        with open(args.times_out, "w") as stream:
            json.dump(times, stream)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
