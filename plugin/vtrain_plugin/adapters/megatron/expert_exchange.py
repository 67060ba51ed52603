"""Tokens on their way to experts and back where DeepEP or HybridEP carries them: no call of torch.distributed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vtrain_plugin.capture.patches import Args
from vtrain_plugin.capture.session import Session

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_MODULE = "megatron.core.transformer.moe.fused_a2a"
# Autograd functions: both passes of each are one exchange.
_FUNCTIONS = ("FusedDispatch", "FusedCombine", "HybridEPDispatch", "HybridEPCombine")


def install(session: Session) -> None:
    """Record both passes of Megatron-Core's fused dispatch and combine; nothing where it has none."""
    try:
        exchanges = importlib.import_module(_MODULE)
    except ImportError:
        return
    assert session.calls is not None
    for name in _FUNCTIONS:
        function = getattr(exchanges, name, None)
        if function is None:
            continue
        for direction in ("forward", "backward"):
            session.patches.wrap(function, direction, session.calls.wrap_exchange("all_to_all", _moved))


def _moved(args: Args) -> tuple[object, ProcessGroup | None]:
    """The tokens (or their gradients), and the group: an argument, or kept from the forward pass."""
    from torch.distributed import ProcessGroup

    context, tokens, *others = args
    group: Any = next((value for value in others if isinstance(value, ProcessGroup)), getattr(context, "group", None))
    return tokens, group if group is not None else _experts_group()


def _experts_group() -> ProcessGroup | None:
    """The ranks that share the experts: HybridEP keeps its group in a buffer of its own."""
    from megatron.core import parallel_state

    get = getattr(parallel_state, "get_expert_tensor_and_model_parallel_group", None)
    group: ProcessGroup | None = get(check_initialized=False) if get is not None else None
    return group
