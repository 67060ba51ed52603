"""Modules that selective recomputation can run again in the backward pass, by Megatron-Core's names."""

from __future__ import annotations

from collections.abc import Sequence

from vtrain_sim.specs.checks import SpecError, known_words

FLAG = "--recompute-modules"
MODULES = {
    "core_attn": "core attention",
    "moe_act": "the activation of the experts",
    "layernorm": "the norms before attention and feed-forward block",
    "mla_up_proj": "up-projections and rotary embedding of multi-latent attention",
    "mlp": "the dense feed-forward block",
    "moe": "the whole mixture of experts: router, exchanges, experts",
    "shared_experts": "the shared experts",
}
DEFAULT = ("core_attn",)
_OF_EXPERTS = ("moe_act", "moe", "shared_experts")


def check_modules(modules: Sequence[str]) -> tuple[str, ...]:
    """The modules without repetitions, in the order of `MODULES`; raises `SpecError` for an unknown one."""
    return known_words(FLAG, modules, MODULES)


def check_model(modules: Sequence[str], experts: bool, latent: bool, shared_overlap: bool, grouped: bool) -> None:
    """Raises `SpecError` where Megatron-Core refuses modules for a model."""
    of_experts = [name for name in _OF_EXPERTS if name in modules]
    if of_experts and not experts:
        raise SpecError(f"{FLAG} {of_experts[0]} needs --num-experts")
    if "mla_up_proj" in modules and not latent:
        raise SpecError(f"{FLAG} mla_up_proj needs --multi-latent-attention")
    if "moe_act" in modules and not grouped:
        raise SpecError(f"{FLAG} moe_act does not go with --no-moe-grouped-gemm")
    if "shared_experts" in modules and shared_overlap:
        raise SpecError(f"{FLAG} shared_experts does not go with --moe-shared-expert-overlap")


def check_delayed_scaling(modules: Sequence[str]) -> None:
    """Raises `SpecError` for modules that Megatron-Core does not run again with delayed scaling of 8-bit operands: they
    would count their maxima twice."""
    twice = [name for name in ("layernorm", "moe_act") if name in modules]
    if twice:
        raise SpecError(f"{FLAG} {twice[0]} does not go with --fp8-recipe delayed, the default: another recipe would")
