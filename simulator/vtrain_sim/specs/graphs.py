"""What CUDA graphs cover, by the words of Megatron-Core's --cuda-graph-impl and --cuda-graph-scope."""

from __future__ import annotations

from collections.abc import Sequence

from vtrain_sim.specs.checks import SpecError, known_words, one_of

NONE = "none"
# A word for the whole iteration is an implementation in some versions and a scope in others.
ITERATION = "full_iteration"
_LOCAL, _TRANSFORMER_ENGINE = "local", "transformer_engine"
IMPLEMENTATIONS = (NONE, _LOCAL, _TRANSFORMER_ENGINE, ITERATION)
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
_ROUTING = ("moe_router", "moe_preprocess")


def check_scopes(scopes: Sequence[str]) -> tuple[str, ...]:
    """The scopes without repetitions, in the order of `SCOPES`; raises `SpecError` for an unknown one."""
    return known_words(FLAG, scopes, SCOPES)


def graphed(implementation: str, scopes: tuple[str, ...]) -> tuple[str, ...]:
    """What is captured: scopes, of which the whole iteration or whole layers stand alone. Raises `SpecError`."""
    one_of("--cuda-graph-impl", implementation, IMPLEMENTATIONS)
    if implementation == NONE:
        return ()
    if ITERATION in scopes and implementation == _TRANSFORMER_ENGINE:
        raise SpecError(f"{FLAG} {ITERATION} needs --cuda-graph-impl {_LOCAL}")
    if LAYER in scopes and len(scopes) > 1:
        raise SpecError(f"{FLAG} {LAYER} is whole layers: no other scope goes with it")
    if "moe" in scopes and "moe_router" in scopes:
        raise SpecError(f"{FLAG} moe and moe_router exclude each other: the router is a part of moe")
    if ITERATION in (implementation, *scopes):
        return (ITERATION,)
    if implementation == _LOCAL and set(scopes) & set(_ROUTING):
        # Megatron-Core's own graphs take what a dispatcher prepares with the router.
        scopes = check_scopes((*scopes, *_ROUTING))
    if "moe_preprocess" in scopes and "moe_router" not in scopes:
        raise SpecError(f"{FLAG} moe_preprocess needs moe_router")
    return (LAYER,) if LAYER in scopes or not scopes else scopes


def check_model(scopes: Sequence[str], experts: bool, dense: bool, padded: bool) -> None:
    """Raises `SpecError` where Megatron-Core captures no such part of a model.

    scopes: as `graphed` gives them. experts, dense: whether it has mixtures of experts, and dense feed-forward blocks.
    padded: experts get as many rows whatever the tokens are.
    """
    for name in ("moe", *_ROUTING):
        if name in scopes and not experts:
            raise SpecError(f"{FLAG} {name} needs --num-experts: the model is dense")
    if "moe" in scopes and not padded:
        raise SpecError(
            f"{FLAG} moe needs experts that drop tokens beyond a padded capacity (--moe-expert-capacity-factor, "
            "--moe-pad-expert-input-to-capacity): moe_router moe_preprocess captures what comes before experts that "
            "drop none"
        )
    if "mlp" in scopes and not dense:
        raise SpecError(f"{FLAG} mlp needs a dense layer: all layers of the model are mixtures of experts")


def check_recomputation(
    implementation: str, scopes: Sequence[str], granularity: str, recomputed_modules: Sequence[str]
) -> None:
    """Raises `SpecError` where Megatron-Core does not run parts again that graphs cover.

    scopes: as `graphed` gives them. recomputed_modules: of selective recomputation.
    """
    if scopes and granularity == "full" and tuple(scopes) != (ITERATION,):
        raise SpecError(
            f"--recompute-granularity full does not go with --cuda-graph-impl {implementation}, unless the graph is of "
            f"the whole iteration ({FLAG} {ITERATION})"
        )
    if implementation == _TRANSFORMER_ENGINE and "moe" in recomputed_modules and "moe_router" in scopes:
        raise SpecError(f"{FLAG} moe_router does not go with --recompute-modules moe")


def check_exchange_overlap(flag: str, implementation: str, scopes: Sequence[str]) -> None:
    """Raises `SpecError` where Megatron-Core does not exchange tokens beside another microbatch in what is captured.

    flag: of that overlap. scopes: as `graphed` gives them.
    """
    of_blocks = [name for name in ("mlp", "moe") if name in scopes]
    if implementation == _TRANSFORMER_ENGINE and of_blocks:
        raise SpecError(f"{FLAG} {of_blocks[0]} does not go with {flag}: attn, moe_router and moe_preprocess do")
