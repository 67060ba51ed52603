"""What CUDA graphs cover, by the words of Megatron-Core's --cuda-graph-impl and --cuda-graph-scope."""

from __future__ import annotations

from collections.abc import Sequence

from vtrain_sim.errors import nearest
from vtrain_sim.specs.checks import SpecError, one_of

NONE = "none"
# A word for the whole iteration is an implementation in some versions and a scope in others.
ITERATION = "full_iteration"
IMPLEMENTATIONS = (NONE, "local", "transformer_engine", ITERATION)
LAYER = "full"
SCOPES = {
    LAYER: "whole transformer layers",
    "attn": "the attention block with its norm",
    "mlp": "the dense feed-forward block with its norm",
    "moe": "the whole mixture of experts",
    "moe_router": "the norm before a mixture of experts and its router, shared experts that run alone too",
    "moe_preprocess": "what a token dispatcher prepares, with the router",
    "mamba": "Mamba layers",
    ITERATION: "forward and backward passes of all microbatches",
}
FLAG = "--cuda-graph-scope"


def check_scopes(scopes: Sequence[str]) -> tuple[str, ...]:
    """The scopes without repetitions, in the order of `SCOPES`; raises `SpecError` for an unknown one."""
    for name in scopes:
        if name not in SCOPES:
            raise SpecError(f"{FLAG} has {name!r}{nearest(name, SCOPES)}: it takes {', '.join(SCOPES)}")
    return tuple(name for name in SCOPES if name in scopes)


def graphed(implementation: str, scopes: tuple[str, ...]) -> tuple[str, ...]:
    """What is captured: scopes, of which the whole iteration or whole layers stand alone. Raises `SpecError`."""
    one_of("--cuda-graph-impl", implementation, IMPLEMENTATIONS)
    if implementation == NONE:
        return ()
    if ITERATION in (implementation, *scopes):
        return (ITERATION,)
    return (LAYER,) if LAYER in scopes or not scopes else scopes
