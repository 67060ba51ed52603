"""Activations that go to the host's memory until their backward pass, by module, by Megatron-Core's names."""

from __future__ import annotations

from collections.abc import Sequence

from vtrain_sim.specs.checks import SpecError, known_words

FLAG = "--offload-modules"
MODULES = {
    "attn_norm": "the input of the norm before attention",
    "qkv_linear": "the input of the query, key and value projection",
    "core_attn": "queries, keys and values",
    "attn_proj": "the input of attention's output projection",
    "mlp_norm": "the input of the norm before the feed-forward block",
    "expert_fc1": "the input of the experts' first product",
    "moe_act": "the input of the experts' activation",
}
_OF_EXPERTS = ("expert_fc1", "moe_act")


def check_modules(modules: Sequence[str]) -> tuple[str, ...]:
    """The modules without repetitions, in the order of `MODULES`; raises `SpecError` for an unknown one."""
    return known_words(FLAG, modules, MODULES)


def check_offloading(modules: Sequence[str], experts: bool, granularity: str, recomputed: Sequence[str]) -> None:
    """Raises `SpecError` where Megatron-Core does not offload modules.

    experts: whether the model has any. granularity, recomputed: of recomputation, and the modules that run again.
    """
    if "attn_proj" in modules and "core_attn" not in modules:
        raise SpecError(f"{FLAG} attn_proj needs core_attn, whose output it is")
    of_experts = [name for name in _OF_EXPERTS if name in modules]
    if of_experts and not experts:
        raise SpecError(f"{FLAG} {of_experts[0]} needs --num-experts")
    if of_experts and "moe" in recomputed:
        raise SpecError(f"{FLAG} {of_experts[0]} does not go with --recompute-modules moe")
    if modules and granularity == "full":
        raise SpecError(f"{FLAG} does not go with --recompute-granularity full")
