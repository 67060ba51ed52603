"""Job configurations of torchtitan (TOML)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vtrain_sim.file_table import FileTable
from vtrain_sim.inputs.launch_script import Launch
from vtrain_sim.specs.checks import SpecError

# (model.name, model.flavor) of torchtitan -> preset.
_PRESETS = {
    ("llama3", "8b"): "llama3-8b",
    ("llama3", "70b"): "llama3-70b",
    ("llama3", "405b"): "llama3-405b",
    ("llama4", "17bx16e"): "llama4-scout",
    ("llama4", "17bx128e"): "llama4-maverick",
    ("deepseek_v3", "16b"): "deepseek-v2-lite",
    ("deepseek_v3", "236b"): "deepseek-v2",
    ("deepseek_v3", "671b"): "deepseek-v3",
    ("qwen3", "0.6b"): "qwen3-0.6b",
    ("qwen3", "1.7b"): "qwen3-1.7b",
    ("qwen3", "4b"): "qwen3-4b",
    ("qwen3", "8b"): "qwen3-8b",
    ("qwen3", "14b"): "qwen3-14b",
    ("qwen3", "32b"): "qwen3-32b",
    ("qwen3", "30b-a3b"): "qwen3-30b-a3b",
    ("qwen3", "235b-a22b"): "qwen3-235b-a22b",
    ("gpt_oss", "20b"): "gpt-oss-20b",
    ("gpt_oss", "120b"): "gpt-oss-120b",
}
_SCHEDULES = {
    "1f1b": "1f1b",
    "gpipe": "gpipe",
    "interleaved1f1b": "interleaved",
    "zbvzerobubble": "zb-v",
    "dualpipev": "dualpipev",
    "interleavedzerobubble": "",
    "loopedbfs": "",
}
# How keys and values reach the other ranks (PyTorch's ring attention) -> what Transformer Engine does much like it.
_ROTATES = {"allgather": "all_gather", "alltoall": "p2p"}
_TWO_CHUNKS = ("interleaved", "zb-v", "dualpipev")
_DTYPES = {"bfloat16": "--bf16", "float16": "--fp16", "float32": "--fp32"}


def is_torchtitan(table: FileTable) -> bool:
    """Whether a TOML file is one of torchtitan's."""
    model = table.get("model")
    return isinstance(model, dict) and "flavor" in model and isinstance(table.get("training", {}), dict)


def read_torchtitan(table: FileTable, path: Path) -> Launch:
    """The job of a torchtitan configuration, in Megatron's arguments. Raises `SpecError`."""
    name, flavor = (str(table["model"].get(key, "")).lower() for key in ("name", "flavor"))
    preset = _PRESETS.get((name, flavor))
    if preset is None:
        raise SpecError(
            f"{path}: there is no preset for {name or 'a model'} {flavor}: give --spec with the model's sizes"
        )
    training, parallel = table.get("training", {}), _parallel(table)
    shard, replicate = (
        int(parallel.get("data_parallel_shard_degree", -1)),
        int(parallel.get("data_parallel_replicate_degree", 1)),
    )
    micro = int(training.get("local_batch_size", training.get("batch_size", 8)))
    pp = int(parallel.get("pipeline_parallel_degree", 1))
    tokens = [
        *_sizes(parallel, pp),
        *_context(parallel),
        *("--seq-length", str(training.get("seq_len", 2048))),
        _DTYPES.get(str(training.get("mixed_precision_param", "bfloat16")), "--bf16"),
        *_recompute(table),
    ]
    notes = ["torchtitan's job, simulated with Megatron-Core's order of operators"]
    if shard != 1:
        tokens.append("--use-torch-fsdp2")
    tp = int(parallel.get("tensor_parallel_degree", 1))
    if tp > 1:
        tokens.append("--sequence-parallel")
    microbatch = int(parallel.get("pipeline_parallel_microbatch_size", 1)) if pp > 1 else micro
    tokens += ["--micro-batch-size", str(microbatch)]
    ranks = shard * replicate if shard > 0 else 0
    total = int(training.get("global_batch_size", -1))
    if total > 0:
        tokens += ["--global-batch-size", str(total)]
    elif ranks:
        tokens += ["--global-batch-size", str(micro * ranks)]
    else:
        notes.append("its global batch follows from the number of GPUs: --global-batch-size says it")
    world = ranks * tp * pp * int(parallel.get("context_parallel_degree", 1)) if ranks else 0
    return Launch(tuple(tokens), world, "" if world else "the sharded degree takes all GPUs", tuple(notes), preset)


def _parallel(table: FileTable) -> dict[str, Any]:
    """Degrees, which older versions have in other sections."""
    return {**table.get("training", {}), **table.get("experimental", {}), **table.get("parallelism", {})}


def _sizes(parallel: dict[str, Any], pp: int) -> list[str]:
    degrees = {
        "--tensor-model-parallel-size": parallel.get("tensor_parallel_degree", 1),
        "--context-parallel-size": parallel.get("context_parallel_degree", 1),
        "--expert-model-parallel-size": parallel.get("expert_parallel_degree", 1),
        "--pipeline-model-parallel-size": pp,
    }
    tokens = [word for flag, degree in degrees.items() if int(degree) > 1 for word in (flag, str(degree))]
    if pp == 1:
        return tokens
    asked = str(parallel.get("pipeline_parallel_schedule", "1F1B"))
    schedule = _SCHEDULES.get(asked.lower(), "")
    if not schedule:
        raise SpecError(f"pipeline_parallel_schedule is {asked}, which is not simulated")
    tokens += ["--schedule", schedule]
    return [*tokens, "--num-virtual-stages-per-pipeline-rank", "2"] if schedule in _TWO_CHUNKS else tokens


def _context(parallel: dict[str, Any]) -> list[str]:
    if int(parallel.get("context_parallel_degree", 1)) == 1:
        return []
    asked = str(parallel.get("context_parallel_rotate_method", "allgather"))
    if asked not in _ROTATES:
        raise SpecError(f"context_parallel_rotate_method is {asked!r}: it takes one of {', '.join(_ROTATES)}")
    return ["--cp-comm-type", _ROTATES[asked]]


def _recompute(table: FileTable) -> list[str]:
    mode = str(table.get("activation_checkpoint", {}).get("mode", "selective"))
    if mode == "full":
        return ["--recompute-granularity", "full", "--recompute-method", "uniform", "--recompute-num-layers", "1"]
    return [] if mode == "none" else ["--recompute-granularity", "selective"]
