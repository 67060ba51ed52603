"""The device of this process: a GPU where torch uses one, the processor elsewhere."""

from __future__ import annotations

import os
import platform
import resource
from functools import cache


@cache
def cuda_in_use() -> bool:
    """Whether torch runs on CUDA here."""
    import torch

    # Test set-ups replace torch.cuda on machines without a GPU: require a compiled-in CUDA too.
    return torch.version.cuda is not None and bool(torch.cuda.is_available())


def graph_is_captured() -> bool:
    """Whether the current stream records a CUDA graph: what is called now runs at every replay, and takes no marks."""
    if not cuda_in_use():
        return False
    import torch

    return bool(torch.cuda.is_current_stream_capturing())


@cache
def device_name() -> str:
    """GPU name, or the processor's model name."""
    if cuda_in_use():
        import torch

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
    if cuda_in_use():
        import torch

        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def peak_memory() -> tuple[int | None, int | None]:
    """Peak bytes allocated and reserved: of the GPU, or resident memory of a CPU process."""
    if cuda_in_use():
        import torch

        return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, None


def nccl_version() -> str | None:
    """Version of NCCL, where CUDA is in use."""
    if not cuda_in_use():
        return None
    import torch

    version = torch.cuda.nccl.version()
    return ".".join(map(str, version)) if isinstance(version, tuple) else str(version)
