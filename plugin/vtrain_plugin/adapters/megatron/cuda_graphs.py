"""CUDA graphs: what Megatron-Core is told to capture, and iterations that are one graph.

A graphed module must have no hooks: Megatron-Core's own graphs stop the training for one, Transformer Engine refuses
to capture, and in a replay no hook runs. So modules get none; phases are wrapped around what launches the graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vtrain_plugin.capture.patches import Function, Kwargs
from vtrain_plugin.capture.session import Session

# Fields of the transformer configuration that ask for graphs; the first two are those of older versions.
_SWITCHES = ("enable_cuda_graph", "external_cuda_graph")


def configured_graphs(config: object) -> str:
    """What of a configuration asks for CUDA graphs, as in ``cuda_graph_impl = local``; "" for none."""
    for name in _SWITCHES:
        if getattr(config, name, False) is True:
            return f"{name} = True"
    implementation = getattr(config, "cuda_graph_impl", None)
    if implementation in (None, "none"):
        return ""
    scope = getattr(config, "cuda_graph_scope", None)
    scopes = [str(getattr(part, "name", part)) for part in scope] if isinstance(scope, (list, tuple)) else [str(scope)]
    of = f", cuda_graph_scope = {','.join(scopes)}" if scope else ""
    return f"cuda_graph_impl = {implementation}{of}"


def install(session: Session, begin: Callable[[Kwargs], None]) -> None:
    """Call `begin` with the keyword arguments of a training iteration that is one graph, before it runs."""
    try:
        from megatron.core.full_cuda_graph import FullCudaGraphWrapper
    except ImportError:
        return

    def wrap(original: Function) -> Function:
        def forward_backward(*args: Any, **kwargs: Any) -> Any:
            session.guard.run(begin, kwargs)
            return original(*args, **kwargs)

        return forward_backward

    session.patches.wrap(FullCudaGraphWrapper, "__call__", wrap)
