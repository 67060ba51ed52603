"""Which optimizer trains: the torch optimizers inside Megatron-Core's wrappers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from megatron.core.optimizer.optimizer import MegatronOptimizer

# Adam by any of the names of its implementations (torch, Apex, Transformer Engine, DeepSpeed).
_ADAM = ("adam", "adamw", "fusedadam", "cpuadam")


def leaves(optimizer: MegatronOptimizer) -> Iterator[torch.optim.Optimizer]:
    """The torch optimizers inside Megatron-Core's wrappers; none on a rank that updates nothing."""
    chained = getattr(optimizer, "chained_optimizers", None)
    if chained is not None:
        for part in chained:
            yield from leaves(part)
        return
    inner = getattr(optimizer, "optimizer", None)
    if inner is not None:
        yield inner


def optimizer_name(optimizer: MegatronOptimizer) -> str:
    """``adam``, ``sgd``, or the classes' names; several are joined, as in ``adam+tensorparallelmuon``.

    The classes say it: Megatron-Core's Muon leaves ``optimizer = "adam"`` in its configuration. The
    configuration says it on a rank that updates nothing, and where the optimizer is split between devices.
    """
    configured = str(getattr(getattr(optimizer, "config", None), "optimizer", "") or "").lower()
    names = set()
    for leaf in leaves(optimizer):
        name = type(leaf).__name__.lower()
        if name == "hybriddeviceoptimizer":
            name = configured
        names.add("adam" if name in _ADAM else name)
    return "+".join(sorted(names)) or configured
