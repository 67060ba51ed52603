"""What of a file changes a step somewhat and is simulated as something else, or left out."""

from __future__ import annotations

from pathlib import Path

from vtrain_sim.file_table import FileTable
from vtrain_sim.inputs.huggingface.family import BESIDE, NO_ROPE, OUTPUT_BIAS, Family
from vtrain_sim.inputs.presets import PREDICTION

_CAP = "capped by a tanh, which is left out"
# Fields of any family, and what they ask for where they are on.
_FIELDS = {
    "num_nextn_predict_layers": PREDICTION,
    "num_mtp_modules": PREDICTION,
    "attn_logit_softcapping": f"scores of attention {_CAP}",
    "final_logit_softcapping": f"logits {_CAP}",
    "attention_chunk_size": "attention within chunks, which is full attention here for sequences that are longer",
    "lm_head_bias": OUTPUT_BIAS,
    "use_bias": "biases of projections, which are left out",
    "use_parallel_residual": BESIDE,
    "parallel_attn": BESIDE,
    "new_decoder_architecture": BESIDE,
}


def notes(path: Path, c: FileTable, family: Family, encoders: tuple[str, ...]) -> tuple[str, ...]:
    """A sentence for each. c: the file's own fields."""
    asked = {name: what for name, what in _FIELDS.items() if c.get(name) and name not in family.reads}
    if asked.get("new_decoder_architecture"):
        asked.pop("parallel_attn", None)
    asked |= {} if "attention_bias" in family.reads else _biases(c)
    layers = c.get("no_rope_layers")
    if isinstance(layers, list) and 0 in layers:
        asked["no_rope_layers"] = NO_ROPE
    asked |= dict.fromkeys(encoders, "an encoder of other inputs than text, which is left out")
    kind = c["model_type"]
    return (
        *(f"{field} of {path} asks for {what}" for field, what in asked.items()),
        *(f"{path} is a {kind} model, which has {what}" for what in family.approximated),
    )


def _biases(c: FileTable) -> dict[str, str]:
    """Both are simulated together, of attention alone those of queries, keys and values."""
    attention, mlp = c.get("attention_bias"), c.get("mlp_bias")
    if attention and not mlp:
        return {"attention_bias": "a bias of attention's output projection, which is left out"}
    if mlp and not attention:
        return {"mlp_bias": "biases of the feed-forward block, which are left out"}
    return {}
