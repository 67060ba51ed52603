"""What tables have no column for and a published model's name tells: of its kernels, and of its recipe."""

from __future__ import annotations

from vtrain_sim.inputs import presets


def narrow_layers(model: str, precision: str, source: str, left_out: list[str]) -> list[str]:
    """Arguments for the layers that a published recipe keeps in 16 bits.

    NVIDIA's for Nemotron 3 Super in 4 bits has the last 14 of them (Megatron-Bridge,
    `nemotron_3_super_bf16_with_nvfp4_mixed`); that attention and latent projections are in 16 bits too, and projections
    out of Mamba in 8, is left out.
    """
    if (model, precision) != ("nemotron_3_super", "nvfp4") or "Megatron-Bridge" not in source:
        return []
    left_out.append("precision")
    return ["--first-last-layers-bf16", "--num-layers-at-start-in-bf16", "0", "--num-layers-at-end-in-bf16", "14"]


def published_kernels(model: str) -> list[tuple[str, ...]]:
    """Each argument, with its value, of the preset of that name which says what kernels the model runs."""
    name = model.replace("_", "-")
    if name not in presets.names("models"):
        return []
    known = presets.model(name)
    chosen: list[tuple[str, ...]] = [("--softmax-type", known.softmax_type)]
    if known.position_embedding_type == "yarn":
        chosen.append(("--position-embedding-type", "yarn"))
    if known.quick_geglu:
        chosen.append(("--quick-geglu",))
    if known.activation_func_clamp_value:
        chosen.append(("--activation-func-clamp-value", str(known.activation_func_clamp_value)))
    return chosen
