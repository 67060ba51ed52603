"""One device plays one rank of any world: flags, and the capture around the player."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from pathlib import Path

from vtrain_plugin import adapters, api, command_errors
from vtrain_plugin.adapters.megatron.adapter import MegatronAdapter
from vtrain_plugin.bench.arguments import FlagParser, add_model_flags
from vtrain_plugin.bench.choices import choose
from vtrain_plugin.bench.device import BenchDevice, choose_device
from vtrain_plugin.bench.failure import reason_of
from vtrain_plugin.bench.installed import installed
from vtrain_plugin.bench.player import Player
from vtrain_plugin.bench.progress import progress
from vtrain_plugin.bench.shard_memory import ShardMemory
from vtrain_plugin.capture.rows import Row

_INTEGERS = {
    "world-size": 0,
    "rank": 0,
    "tensor-model-parallel-size": 1,
    "pipeline-model-parallel-size": 1,
    "context-parallel-size": 1,
    "layers": 0,
    "micro-batch-size": 1,
    "num-microbatches": 2,
    "warmup": 2,
    "steps": 3,
}
_SWITCHES = (
    "sequence-parallel",
    "use-distributed-optimizer",
    "bf16",
    "fp16",
    "untie-embeddings-and-output-weights",
    "recompute-full",
    "kernels",
    "pin",
)
REFUSED, FAILED = 2, 1


def parser() -> argparse.ArgumentParser:
    """Flags are Megatron's names. Raises `SizeError` for one that it does not know."""
    result = FlagParser(prog="vtrain-profile rank", allow_abbrev=False)
    for name, default in _INTEGERS.items():
        result.add_argument(f"--{name}", type=int, default=default)
    for name in _SWITCHES:
        result.add_argument(f"--{name}", action="store_true")
    add_model_flags(result)
    result.add_argument("--moe-token-dispatcher-type", default="alltoall", choices=("allgather", "alltoall"))
    result.add_argument("--out", required=True)
    result.add_argument("--run-id", required=True)
    result.add_argument("--prelude", default="", help="module to import (and call apply() of) first")
    result.add_argument("--label", default="", help="what the progress bar says")
    result.add_argument("--reason-file", default="", help="where to write why this size was not measured")
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
    if args.layers < 0 or args.layers > args.num_layers // pp:
        return f"--layers is {args.layers}: a stage has {args.num_layers // pp} layers"
    return _problem_of_experts(args)


def _problem_of_experts(args: argparse.Namespace) -> str:
    ep = args.expert_model_parallel_size
    if isinstance(args.moe_layer_freq, list) and len(args.moe_layer_freq) != args.num_layers:
        return f"--moe-layer-freq has {len(args.moe_layer_freq)} layers: the model has {args.num_layers}"
    if ep == 1:
        return ""
    if not args.num_experts or args.num_experts % ep:
        return f"--expert-model-parallel-size is {ep}, which does not divide --num-experts ({args.num_experts})"
    etp = args.expert_tensor_parallel_size or args.tensor_model_parallel_size
    if args.world_size % (ep * etp * args.pipeline_model_parallel_size):
        return (
            f"--expert-model-parallel-size is {ep}: expert x expert tensor x pipeline parallel size must divide "
            f"--world-size ({args.world_size})"
        )
    return ""


def main(arguments: list[str] | None = None) -> None:
    """Play the rank and write its profile.

    Where that cannot be, the exit code is REFUSED (before it began) or FAILED, and the reason is in --reason-file.
    """
    args = parser().parse_args(arguments)
    reason = problem(args)
    if reason:
        _leave(args, reason, REFUSED)
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    if args.prelude:
        importlib.import_module(args.prelude).apply()
    device = choose_device(args.pin)
    if not device.cuda and not args.prelude:
        _leave(args, "Megatron-Core builds its modules on a CUDA GPU, and torch finds none here", REFUSED)
    refusal = ShardMemory.of(args).refusal(device.free_bytes())
    if refusal:
        _leave(args, refusal, REFUSED)
    try:
        play(args, device)
    except Exception as error:
        if command_errors.wants_traceback():
            traceback.print_exc()
        _leave(args, reason_of(error), FAILED)


def play(args: argparse.Namespace, device: BenchDevice) -> None:
    """Build the rank's shard and capture some of its steps."""
    choices = choose(args, installed(), device.cuda)
    for note in choices.notes:
        print(f"vtrain-profile rank: {note}", file=sys.stderr)
    adapters.register(_played(args))
    session = api.enable(args.out, run_id=args.run_id, warmup=args.warmup, steps=args.steps, kernels=args.kernels)
    assert session is not None
    session.source = "rank"
    with progress(1 + args.warmup + args.steps) as tell:
        tell(f"{args.label}: building")
        player = Player(args, device, choices)
        player.train(args.warmup, args.steps, lambda: tell(f"{args.label}: training"))
    api.disable()
    if player.queue.remark():
        print(f"vtrain-profile rank: {player.queue.remark()}", file=sys.stderr)


def _played(args: argparse.Namespace) -> type[MegatronAdapter]:
    """Megatron-Core's adapter, which also knows that not all of the stage's layers were built."""

    class Played(MegatronAdapter):
        def describe_run(self) -> Row:
            return {**super().describe_run(), "layers_built": args.layers or None}

    return Played


def _leave(args: argparse.Namespace, reason: str, code: int) -> None:
    if args.reason_file:
        Path(args.reason_file).write_text(reason)
    else:
        print(f"vtrain-profile rank: {reason}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
