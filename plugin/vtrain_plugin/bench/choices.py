"""How Megatron builds its operators from its arguments, with the libraries that are there."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from vtrain_plugin.bench.installed import Installed


@dataclass(frozen=True)
class Choices:
    """One field per choice; names are those of Megatron-Core's configuration.

    experts: "te_grouped", "grouped_gemm" or "sequential". notes: what was wanted and is not there, a sentence each.
    """

    transformer_engine: bool
    fused_attention: bool
    gated_linear_unit: bool
    add_bias_linear: bool
    rms_norm: bool
    bias_activation_fusion: bool
    bias_dropout_fusion: bool
    apply_rope_fusion: bool
    masked_softmax_fusion: bool
    persist_layer_norm: bool
    gradient_accumulation_fusion: bool
    moe_permute_fusion: bool
    experts: str
    fp8: str
    hidden_dropout: float
    attention_dropout: float
    notes: tuple[str, ...] = ()


def choose(args: argparse.Namespace, have: Installed, cuda: bool) -> Choices:
    """The choices of a command line. Fused kernels exist on CUDA only."""
    wanted = args.transformer_impl or "transformer_engine"
    engine = cuda and wanted == "transformer_engine" and have.transformer_engine is not None
    bias = not args.disable_bias_linear
    notes: list[str] = []

    def fused(name: str, asked: bool, there: bool, needs: str) -> bool:
        if asked and cuda and not there:
            notes.append(f"{name} is off: {needs} is not installed")
        return asked and cuda and there

    if args.transformer_impl == "transformer_engine" and cuda and not engine:
        notes.append("Transformer Engine is not installed: PyTorch's own kernels stand in for it")
    if args.fp8_format and args.fp8_recipe in ("mxfp8", "blockwise"):
        notes.append(f"8-bit products have one scale per tensor here, not {args.fp8_recipe}'s: rank runs the recipe")
    activation = not (args.no_bias_swiglu_fusion if args.swiglu else args.no_bias_gelu_fusion)
    local = wanted == "local"
    return Choices(
        transformer_engine=engine,
        fused_attention=not local and args.attention_backend not in ("unfused", "local"),
        gated_linear_unit=args.swiglu,
        add_bias_linear=bias,
        rms_norm=args.normalization == "RMSNorm",
        # Megatron switches the fused GELU off where there is no bias to fuse.
        bias_activation_fusion=fused(
            "bias_activation_fusion", activation and (bias or args.swiglu), have.megatron is not None, "megatron-core"
        ),
        bias_dropout_fusion=fused(
            "bias_dropout_fusion", not args.no_bias_dropout_fusion, have.megatron is not None, "megatron-core"
        ),
        apply_rope_fusion=fused(
            "apply_rope_fusion",
            # Of latent attention it is experimental: Megatron-Core refuses it where nobody asked for that.
            not (args.no_rope_fusion or args.multi_latent_attention) and args.position_embedding_type == "rope",
            have.transformer_engine is not None and have.megatron is not None,
            "Transformer Engine",
        ),
        masked_softmax_fusion=fused(
            "masked_softmax_fusion",
            not args.no_masked_softmax_fusion and local,
            have.masked_softmax is not None and have.megatron is not None,
            "apex with scaled_upper_triang_masked_softmax_cuda",
        ),
        persist_layer_norm=fused(
            "persist_layer_norm",
            not args.no_persist_layer_norm and local and args.normalization == "LayerNorm",
            have.persistent_norm is not None and have.megatron is not None,
            "apex with FastLayerNorm",
        ),
        gradient_accumulation_fusion=fused(
            "gradient_accumulation_fusion",
            not args.no_gradient_accumulation_fusion,
            engine or have.weight_gradient is not None,
            "Transformer Engine or apex with fused_weight_gradient_mlp_cuda",
        ),
        moe_permute_fusion=fused(
            "moe_permute_fusion", args.moe_permute_fusion, have.transformer_engine is not None, "Transformer Engine"
        ),
        experts=_experts(args, have, cuda, engine, notes),
        fp8=args.fp8_format,
        hidden_dropout=args.hidden_dropout,
        attention_dropout=args.attention_dropout,
        notes=tuple(notes),
    )


def _experts(args: argparse.Namespace, have: Installed, cuda: bool, engine: bool, notes: list[str]) -> str:
    if not (args.num_experts and args.moe_grouped_gemm and cuda):
        return "sequential"
    if engine:
        return "te_grouped"
    if have.grouped_gemm is not None:
        return "grouped_gemm"
    notes.append("experts run one after the other: neither Transformer Engine nor grouped_gemm is installed")
    return "sequential"
