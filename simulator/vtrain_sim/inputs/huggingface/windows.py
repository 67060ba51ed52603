"""Layers that attend to the last tokens alone.

Transformers counts the token itself in a window, Megatron those before it: the difference of one is left out, as the
simulated band is as wide as the window (`model.attention`).
"""

from __future__ import annotations

from vtrain_sim.file_table import FileTable, SpecFields
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.specs.model import MOST_LAYERS
from vtrain_sim.specs.moe_pattern import write_pattern

# What is done in a layer of each kind, where it is not full attention.
_SLIDING = "sliding_attention"
_FULL = ("full_attention", "attention", "global_attention", "chunked_attention")

# Layers that its reader has told already: those with linear attention and those with full attention.
LINEAR = "linear"
# How layers alternate in families whose files need not list them.
EVERY, LATER, PATTERN = "every layer", "later layers where a switch is on", "all but every nth layer"


def windows(c: FileTable, rule: str, num_layers: int) -> SpecFields:
    """`window_size` and `window_attn_skip_freq`. Raises `SpecError` for layers without attention."""
    layers = range(min(num_layers, MOST_LAYERS))
    kinds = c.get("layer_types") if rule != LINEAR else None
    if kinds is not None:
        slides = _listed(kinds, num_layers)
    elif rule == PATTERN:
        every = c.get("sliding_window_pattern") or 2
        slides = [(layer + 1) % every != 0 for layer in layers]
    elif rule == LATER:
        slides = [bool(c.get("use_sliding_window")) and layer >= c.get("max_window_layers", 28) for layer in layers]
    else:
        slides = [rule == EVERY] * len(layers)
    window = c.get("sliding_window") or 0
    if not window or not any(slides):
        return {}
    return {"window_size": window, "window_attn_skip_freq": pattern(slides)}


def _listed(kinds: object, num_layers: int) -> list[bool]:
    if not isinstance(kinds, list) or len(kinds) != num_layers:
        raise SpecError(f"layer_types does not list its {num_layers} layers")
    for kind in kinds:
        if kind != _SLIDING and kind not in _FULL:
            raise SpecError(f"layer_types has {kind!r}: layers of anything but softmax attention are not simulated")
    return [kind == _SLIDING for kind in kinds]


def pattern(layers: list[bool]) -> str:
    """Layers as Megatron's arguments say them: "n" for all but every nth, or a list; empty for all of them."""
    if all(layers):
        return ""
    first = layers.index(False) + 1
    if layers == [(layer + 1) % first != 0 for layer in range(len(layers))]:
        return str(first)
    return write_pattern([int(one) for one in layers])
