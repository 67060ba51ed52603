"""Mixtures of experts: how many, how wide, shared ones, and which layers have them."""

from __future__ import annotations

from collections.abc import Callable

from vtrain_sim.file_table import FileTable, SpecFields
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.specs.model import MOST_LAYERS
from vtrain_sim.specs.moe_pattern import write_pattern


def experts(
    c: FileTable,
    number: int,
    width: int,
    shared: int = 0,
    is_mixture: Callable[[FileTable, int], bool] = lambda c, layer: True,
) -> SpecFields:
    """The fields of a model whose layers, counted from 0, have experts where `is_mixture` says so.

    width: of one expert. shared: of all shared experts together.
    """
    fields: SpecFields = {
        "num_experts": number,
        "moe_router_topk": c["num_experts_per_tok"],
        "moe_ffn_hidden_size": width,
        "moe_shared_expert_intermediate_size": shared,
    }
    mixtures = [is_mixture(c, layer) for layer in range(min(c["num_hidden_layers"], MOST_LAYERS))]
    if not any(mixtures):
        raise SpecError("it has experts, but no layer of them")
    if not all(mixtures):
        fields["moe_layer_freq"] = write_pattern([int(mixture) for mixture in mixtures])
    return fields


def router_groups(c: FileTable) -> SpecFields:
    """Routing to so many groups of experts at most (DeepSeek-V2, arXiv:2405.04434, section 2.2.2), where it is on."""
    if (c.get("n_group") or 1) == 1 or c.get("topk_method") == "greedy":
        return {}
    return {"moe_router_num_groups": c["n_group"], "moe_router_group_topk": c["topk_group"]}


def after_the_first(c: FileTable, layer: int) -> bool:
    """DeepSeek's and GLM's rule: the first layers are dense."""
    every = c.get("moe_layer_freq") or 1
    return bool(layer >= (c.get("first_k_dense_replace") or 0) and layer % every == 0)


def every_nth(c: FileTable, layer: int) -> bool:
    """Qwen's rule: every nth layer, but for those listed as dense."""
    step = c.get("decoder_sparse_step")
    every = 1 if step is None else step
    return layer not in (c.get("mlp_only_layers") or ()) and every > 0 and (layer + 1) % every == 0


def interleaved(c: FileTable, layer: int) -> bool:
    """Llama 4's rule: a list, or every nth layer."""
    listed = c.get("moe_layers")
    return layer in listed if listed else (layer + 1) % (c.get("interleave_moe_layer_step") or 1) == 0
