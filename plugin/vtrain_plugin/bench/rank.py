"""One device plays one rank of any world: flags, and the capture around the player."""

from __future__ import annotations

import argparse
import importlib
import os

from vtrain_plugin import api
from vtrain_plugin.bench.device import choose_device
from vtrain_plugin.bench.player import Player

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
    device = choose_device(args.pin)
    session = api.enable(args.out, run_id=args.run_id, warmup=args.warmup, steps=args.steps, kernels=args.kernels)
    assert session is not None
    session.source = "rank"
    Player(args, device).train(args.warmup + args.steps)
    api.disable()


if __name__ == "__main__":
    main()
