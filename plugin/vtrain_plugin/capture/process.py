"""This process among the others: rank, host, and names for runs."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from functools import cache

# Of torchrun, Open MPI, MVAPICH and Slurm.
_RANKS_PER_HOST = (
    "LOCAL_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MV2_COMM_WORLD_LOCAL_SIZE",
    "SLURM_NTASKS_PER_NODE",
)
_RANK_IN_HOST = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")


def rank() -> int:
    """Global rank of this process; 0 outside torch.distributed."""
    import torch.distributed as dist

    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def may_train() -> bool:
    """Whether this process may be one that trains: it has torch, is no launcher and no helper of another process."""
    import multiprocessing

    launcher = "torch.distributed.elastic.agent.server.api" in sys.modules
    return "torch" in sys.modules and not launcher and multiprocessing.parent_process() is None


def world_size() -> int:
    """Ranks of the job; 1 outside torch.distributed."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def local_world_size() -> int:
    """Ranks of this host, from the launcher; 1 without one."""
    return _from_launcher(_RANKS_PER_HOST) or 1


def local_rank() -> int:
    """Rank within the host, from the launcher; 0 without one."""
    return _from_launcher(_RANK_IN_HOST) or 0


def _from_launcher(names: tuple[str, ...]) -> int | None:
    """The first of these variables that is a number."""
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), None)


def host_name() -> str:
    """The name under which this host appears in the profile."""
    return os.environ.get("VTRAIN_HOST") or socket.gethostname()


@cache
def nodes_of(ranks: tuple[int, ...]) -> int | None:
    """Hosts that a group spans, for the usual layout of so many consecutive ranks per host."""
    per_host = _from_launcher(_RANKS_PER_HOST)
    if not per_host:
        return 1 if len(ranks) == 1 else None
    return len({r // per_host for r in ranks if r >= 0})


def new_run_id() -> str:
    """A run id from the time of day, readable and sortable; no other is like it, on any host."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + f"-{secrets.token_hex(3)}"
