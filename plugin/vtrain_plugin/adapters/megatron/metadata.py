"""The run and rank rows: who ran what, where."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import time
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from vtrain_plugin.adapters.megatron.context import ModelContext, dtype_name
from vtrain_schemas import SCHEMA_VERSION


def rank() -> int:
    """Global rank of this process; 0 outside torch.distributed."""
    import torch.distributed as dist

    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def agree_on_run_id() -> str:
    """One run id for all ranks, through the job's own key-value store (no collective)."""
    import torch.distributed as dist

    from vtrain_plugin.capture.session import new_run_id

    run_id = new_run_id()
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return run_id
    if dist.get_backend() == "fake":
        return run_id
    from torch.distributed import distributed_c10d

    store = distributed_c10d._get_default_store()
    key = f"vtrain/run_id/{agree_on_run_id.captures}"  # type: ignore[attr-defined]
    agree_on_run_id.captures += 1  # type: ignore[attr-defined]
    if dist.get_rank() == 0:
        store.set(key, run_id)
        return run_id
    answer = store.get(key)
    return answer.decode() if isinstance(answer, bytes) else str(answer)


agree_on_run_id.captures = 0  # type: ignore[attr-defined]


def peak_memory() -> tuple[int | None, int | None]:
    """Peak bytes allocated and reserved: of the GPU, or resident memory of a CPU process."""
    import torch

    if torch.version.cuda is not None and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, None


@cache
def nodes_of(ranks: tuple[int, ...]) -> int | None:
    """Hosts that a group spans, for the usual layout of LOCAL_WORLD_SIZE consecutive ranks a host."""
    per_host = int(os.environ.get("LOCAL_WORLD_SIZE", "0") or 0)
    if per_host <= 0:
        return 1 if len(ranks) == 1 else None
    return len({r // per_host for r in ranks if r >= 0})


def rank_row(context: ModelContext, run_id: str, dropped: int) -> dict[str, Any]:
    """The row of this process in the ranks table."""
    from vtrain_plugin.capture.session import host_name

    return {
        "run_id": run_id,
        "rank": rank(),
        "host": host_name(),
        "local_rank": int(os.environ.get("LOCAL_RANK", "0") or 0),
        "tp_rank": _parallel("get_tensor_model_parallel_rank", 0),
        "pp_rank": _parallel("get_pipeline_model_parallel_rank", 0),
        "dp_rank": _parallel("get_data_parallel_rank", 0),
        "cp_rank": _parallel("get_context_parallel_rank", 0),
        "ep_rank": _parallel("get_expert_model_parallel_rank", 0),
        "device_name": device_name(),
        "parameters": context.parameters,
        "dropped_rows": dropped,
    }


def run_row(context: ModelContext, run_id: str, settings: Any, clock_source: str) -> dict[str, Any]:
    """The row of the runs table, from Megatron's own configuration objects."""
    from vtrain_plugin.capture.session import host_name

    config, ddp = context.config, context.ddp_config
    chunks = getattr(config, "virtual_pipeline_model_parallel_size", None)
    activation = getattr(getattr(config, "activation_func", None), "__name__", "")
    row: dict[str, Any] = {
        "run_id": run_id,
        "source": "plugin",
        "expert_tensor_parallel_size": getattr(config, "expert_tensor_parallel_size", None),
        "virtual_pipeline_chunks": chunks or 1,
        "data_parallel_size": _parallel("get_data_parallel_world_size", 1),
        "distributed_optimizer": getattr(ddp, "use_distributed_optimizer", None),
        "overlap_grad_reduce": getattr(ddp, "overlap_grad_reduce", None),
        "overlap_param_gather": getattr(ddp, "overlap_param_gather", None),
        "seq_length": context.seq_length or None,
        "micro_batch_size": context.micro_batch_size or None,
        "padded_vocab_size": context.padded_vocab_size or None,
        "max_position_embeddings": context.max_position_embeddings,
        "position_embedding_type": context.position_embedding_type,
        "num_experts": getattr(config, "num_moe_experts", None),
        "swiglu": bool(getattr(config, "gated_linear_unit", False)) and activation == "silu",
        "untie_embeddings_and_output_weights": (
            None if context.tied_embeddings is None else not context.tied_embeddings
        ),
        "params_dtype": context.params_dtype or dtype_name(getattr(config, "params_dtype", "")),
        "fp8": str(config.fp8) if getattr(config, "fp8", None) else None,
        "main_grads_dtype": context.main_grads_dtype,
        "optimizer": "adam",
        "transformer_impl": context.transformer_impl,
        "warmup_steps": settings.warmup,
        "active_steps": settings.steps,
        "clock_source": clock_source,
        "config_json": json.dumps(_plain(config), sort_keys=True),
        **environment_columns(),
    }
    for name in (
        "tensor_model_parallel_size",
        "pipeline_model_parallel_size",
        "context_parallel_size",
        "expert_model_parallel_size",
        "sequence_parallel",
        "overlap_p2p_comm",
        "num_layers",
        "hidden_size",
        "ffn_hidden_size",
        "num_attention_heads",
        "num_query_groups",
        "kv_channels",
        "moe_router_topk",
        "moe_ffn_hidden_size",
        "add_bias_linear",
        "normalization",
        "recompute_granularity",
        "recompute_method",
        "recompute_num_layers",
    ):
        row[name] = getattr(config, name, None)
    if row["num_experts"] is None:
        row["moe_router_topk"] = row["moe_ffn_hidden_size"] = None
    row["hosts"] = [host_name()]
    return row


def environment_columns() -> dict[str, Any]:
    """Columns of the runs table that any capture on this machine shares."""
    import torch
    import torch.distributed as dist

    initialised = dist.is_available() and dist.is_initialized()
    cuda = torch.version.cuda is not None and torch.cuda.is_available()
    nccl = None
    if cuda:
        found = torch.cuda.nccl.version()
        nccl = ".".join(map(str, found)) if isinstance(found, tuple) else str(found)
    return {
        "schema_version": SCHEMA_VERSION,
        "created_ns": time.time_ns(),
        "world_size": dist.get_world_size() if initialised else 1,
        "backend": str(dist.get_backend()) if initialised else None,
        "device_name": device_name(),
        "device_memory_bytes": device_memory(),
        "devices_per_host": int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1),
        "torch_version": torch.__version__,
        "megatron_core_version": _version("megatron-core"),
        "cuda_version": torch.version.cuda,
        "nccl_version": nccl,
        "vtrain_version": _version("vtrain") or "unknown",
    }


def complete_batch(run: dict[str, Any]) -> None:
    """Global batch from micro batch, microbatches and data parallel size."""
    size, count, replicas = (
        int(run.get(name) or 0) for name in ("micro_batch_size", "num_microbatches", "data_parallel_size")
    )
    if size and count and replicas:
        run["global_batch_size"] = size * count * replicas


@cache
def device_name() -> str:
    """GPU name, or the processor's model name."""
    import torch

    if torch.version.cuda is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def device_memory() -> int | None:
    """Memory of the device (GPU), or of the host, bytes."""
    import torch

    if torch.version.cuda is not None and torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _parallel(function: str, default: int) -> int:
    try:
        from megatron.core import parallel_state

        return int(getattr(parallel_state, function)())
    except (ImportError, AttributeError, AssertionError, RuntimeError, TypeError):
        return default


def _version(distribution: str) -> str | None:
    if distribution == "megatron-core":
        # The imported package, which may not be the installed distribution.
        import megatron.core

        version = getattr(megatron.core, "__version__", None)
        if isinstance(version, str):
            return version
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _plain(config: Any) -> dict[str, Any]:
    """The configuration's values that JSON can hold; others by their name."""
    if not is_dataclass(config):
        return {}
    plain = {}
    for field in fields(config):
        value = getattr(config, field.name, None)
        if value is None or isinstance(value, (bool, int, float, str)):
            plain[field.name] = value
        else:
            plain[field.name] = getattr(value, "__name__", None) or str(type(value).__name__)
    return plain
