"""Megatron-Core's configuration and layers of a played rank, from Megatron's flags."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from vtrain_plugin.bench.choices import Choices

if TYPE_CHECKING:
    import torch
    from megatron.core.transformer.spec_utils import ModuleSpec
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
    from megatron.core.transformer.transformer_config import TransformerConfig

T = TypeVar("T")

# Flags that are fields of the configuration under the same name.
_SAME_NAME = (
    "num_layers",
    "hidden_size",
    "num_attention_heads",
    "normalization",
    "bf16",
    "fp16",
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "expert_model_parallel_size",
    "context_parallel_size",
    "sequence_parallel",
    "hidden_dropout",
    "attention_dropout",
    "qk_layernorm",
)
_LATENT = ("kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim", "v_head_dim")
_CHOICES = (
    "add_bias_linear",
    "bias_activation_fusion",
    "bias_dropout_fusion",
    "apply_rope_fusion",
    "masked_softmax_fusion",
    "persist_layer_norm",
    "gradient_accumulation_fusion",
)


class UnsupportedError(ValueError):
    """What the installed libraries cannot run; the message says what is missing."""


def transformer_config(args: argparse.Namespace, choices: Choices, dtype: torch.dtype) -> TransformerConfig:
    """The configuration of the whole model. Raises `UnsupportedError`."""
    from megatron.core.transformer import transformer_config as configs

    options = {name: getattr(args, name) for name in _SAME_NAME}
    options |= {name: getattr(choices, name) for name in _CHOICES}
    options |= {"pipeline_dtype": dtype, "params_dtype": dtype}
    optional = {name: getattr(args, name) for name in ("ffn_hidden_size", "num_query_groups", "kv_channels")}
    options |= {name: size or None for name, size in optional.items()}
    for part in (_activation(args), _recomputation(args), _experts(args, choices), _narrow(choices, args.fp8_recipe)):
        options |= part
    kind: Callable[..., TransformerConfig] = configs.TransformerConfig
    if args.multi_latent_attention:
        kind = configs.MLATransformerConfig
        options |= {name: getattr(args, name) for name in _LATENT}
        options["q_lora_rank"] = args.q_lora_rank or None
    return kind(**accepted(kind, **options))


def _activation(args: argparse.Namespace) -> dict[str, object]:
    if not args.swiglu:
        return {}
    import torch

    return {"gated_linear_unit": True, "activation_func": torch.nn.functional.silu}


def _recomputation(args: argparse.Namespace) -> dict[str, object]:
    if not args.recompute_full:
        return {}
    return {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}


def _experts(args: argparse.Namespace, choices: Choices) -> dict[str, object]:
    if not args.num_experts:
        return {}
    return {
        "num_moe_experts": args.num_experts,
        "moe_router_topk": args.moe_router_topk,
        "moe_layer_freq": args.moe_layer_freq,
        "moe_ffn_hidden_size": args.moe_ffn_hidden_size or None,
        "moe_shared_expert_intermediate_size": args.moe_shared_expert_intermediate_size or None,
        "moe_token_dispatcher_type": args.moe_token_dispatcher_type,
        "moe_grouped_gemm": choices.experts != "sequential",
        "moe_use_legacy_grouped_gemm": choices.experts == "grouped_gemm",
        "moe_permute_fusion": choices.moe_permute_fusion,
        "expert_tensor_parallel_size": args.expert_tensor_parallel_size or args.tensor_model_parallel_size,
        # Meaningless values would send all tokens to a few experts.
        "moe_router_force_load_balancing": True,
    }


def _narrow(choices: Choices, recipe: str) -> dict[str, object]:
    if not choices.fp8:
        return {}
    if not choices.transformer_engine:
        raise UnsupportedError(f"--fp8-format {choices.fp8} needs Transformer Engine on a GPU, which is not there")
    return {"fp8": choices.fp8, "fp8_recipe": recipe}


def block_spec(config: TransformerConfig, args: argparse.Namespace, choices: Choices) -> TransformerBlockSubmodules:
    """The rank's layers, or so many of them as --layers says."""
    from megatron.core.models.gpt import gpt_layer_specs

    make = gpt_layer_specs.get_gpt_decoder_block_spec
    # Named by its class, without Transformer Engine the norm of the local modules is not found.
    block = make(
        config, **accepted(make, use_transformer_engine=choices.transformer_engine, normalization=args.normalization)
    )
    if args.multi_latent_attention:
        _check_latent(block.layer_specs[0])
    if args.layers:
        block.layer_specs = some_of_each(block.layer_specs, args.layers)
    return block


def _check_latent(layer: ModuleSpec) -> None:
    attention = layer.submodules.self_attention.submodules.core_attention
    if "k_channels" not in inspect.signature(attention.__init__).parameters:
        raise UnsupportedError(
            "--multi-latent-attention needs Transformer Engine, which is not there: without it keys and values have "
            "one width"
        )


def some_of_each(layers: Sequence[T], count: int) -> list[T]:
    """`count` layers in their order, each kind of layer among them. Raises ValueError where the kinds are more."""
    kinds = [layers.index(layer) for layer in layers]
    first_of_kind = dict.fromkeys(kinds)
    if len(first_of_kind) > count:
        raise ValueError(
            f"--layers is {count}: the stage has {len(first_of_kind)} kinds of layers, and needs one of each"
        )
    others = [position for position in range(len(layers)) if position not in first_of_kind]
    chosen = sorted([*first_of_kind, *others[: count - len(first_of_kind)]])
    return [layers[position] for position in chosen]


def accepted(function: Callable[..., object], **options: object) -> dict[str, object]:
    """The options that this version of Megatron-Core takes."""
    names = inspect.signature(function).parameters
    return {k: v for k, v in options.items() if k in names}
