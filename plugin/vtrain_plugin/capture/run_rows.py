"""Rows of the runs and ranks tables: what any capture on this machine knows."""

from __future__ import annotations

import importlib.metadata
import time
from math import prod

from vtrain_plugin.capture import process
from vtrain_plugin.capture.device import device_memory, device_name, nccl_version
from vtrain_plugin.capture.rows import Row
from vtrain_schemas import SCHEMA_VERSION

COORDINATES = ("tp_rank", "pp_rank", "dp_rank", "cp_rank", "ep_rank")


def distribution_version(distribution: str) -> str | None:
    """Version of an installed distribution; None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def environment_columns() -> Row:
    """Columns of the runs table that any capture on this machine shares."""
    import torch
    import torch.distributed as dist

    initialised = dist.is_available() and dist.is_initialized()
    return {
        "schema_version": SCHEMA_VERSION,
        "created_ns": time.time_ns(),
        "world_size": process.world_size(),
        "backend": str(dist.get_backend()) if initialised else None,
        "device_name": device_name(),
        "device_memory_bytes": device_memory(),
        "devices_per_host": process.local_world_size(),
        "hosts": [process.host_name()],
        "torch_version": torch.__version__,
        "cuda_version": torch.version.cuda,
        "nccl_version": nccl_version(),
        "vtrain_version": distribution_version("vtrain") or "unknown",
        "config_json": "{}",
    }


def rank_row(run_id: str) -> Row:
    """The row of this process in the ranks table, at coordinate 0 of everything."""
    return {
        "run_id": run_id,
        "rank": process.rank(),
        "host": process.host_name(),
        "local_rank": process.local_rank(),
        **dict.fromkeys(COORDINATES, 0),
        "device_name": device_name(),
    }


def complete_batch(run: Row) -> None:
    """Global batch from micro batch, microbatches and data parallel size."""
    factors = [run.get(name) for name in ("micro_batch_size", "num_microbatches", "data_parallel_size")]
    sizes = [factor for factor in factors if isinstance(factor, int) and factor]
    if len(sizes) == len(factors):
        run["global_batch_size"] = prod(sizes)
