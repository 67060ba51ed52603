"""Shapes: what models of any number of layers and any hidden size look like, and in which proportions they come."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cache

from vtrain_sim.errors import UserError, nearest
from vtrain_sim.extensions import Registry
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.lookup import find_model, is_config
from vtrain_sim.specs import ModelSpec
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.specs.moe_pattern import moe_layers, write_pattern

ENTRY_POINTS = "vtrain.shapes"
HEAD_SIZE = 128
# Around that of a single model, when there is no family to say it.
_NEAR = 1.12
# Widths of feed-forward blocks are multiples of it: tiles of matrix products, divided by 8 ranks.
_WIDTH = 128


@dataclass(frozen=True)
class Shape(ABC):
    """A family of models. aspect: least and most hidden size over layers. source: the models that say so."""

    name: str
    source: str
    aspect: tuple[float, float]

    @property
    @abstractmethod
    def usual(self) -> ModelSpec:
        """A model of the family, with its usual sequence length and vocabulary."""

    @abstractmethod
    def model(self, num_layers: int, hidden_size: int, like: ModelSpec) -> ModelSpec:
        """The model of so many layers of a size, with the sequence length and vocabulary of another one."""


class Gpt(Shape):
    """Dense GPT models: GELU, biases, learned positions, as many key and value heads as heads."""

    @property
    def usual(self) -> ModelSpec:
        """See `Shape`: the vocabulary of GPT-2, padded, and the sequence length of GPT-3."""
        return ModelSpec(24, 2048, 16, 2048, 51200)

    def model(self, num_layers: int, hidden_size: int, like: ModelSpec) -> ModelSpec:
        """See `Shape`; heads are 128 wide."""
        heads = hidden_size // HEAD_SIZE
        model = ModelSpec(num_layers, hidden_size, heads, like.seq_length, like.vocab_size)
        return _named(replace(model, make_vocab_size_divisible_by=like.make_vocab_size_divisible_by))


@dataclass(frozen=True)
class Scaled(Shape):
    """A model made larger and smaller: its kinds of layers, its number of experts, and its widths over the hidden size.

    Heads keep their width, and their number goes with the hidden size; groups of keys and values, the compressed
    widths of latent attention and the dense layers before those with experts keep their number.
    """

    preset: str

    @property
    def usual(self) -> ModelSpec:
        """See `Shape`."""
        return _pattern(self.preset)

    def model(self, num_layers: int, hidden_size: int, like: ModelSpec) -> ModelSpec:
        """See `Shape`. Raises `SpecError` where the heads do not divide into groups."""
        pattern = self.usual
        scale = hidden_size / pattern.hidden_size
        heads = max(1, round(pattern.num_attention_heads * scale))
        groups = heads
        if pattern.num_query_groups < pattern.num_attention_heads:
            groups = max(g for g in range(1, pattern.num_query_groups + 1) if heads % g == 0)
            if 2 * groups < min(pattern.num_query_groups, heads):
                raise SpecError(f"{heads} heads do not divide into about {pattern.num_query_groups} groups")

        def width(size: int) -> int:
            return max(_WIDTH, round(size * scale / _WIDTH) * _WIDTH) if size else 0

        return _named(
            replace(
                pattern,
                num_layers=num_layers,
                hidden_size=hidden_size,
                num_attention_heads=heads,
                num_query_groups=groups,
                ffn_hidden_size=width(pattern.ffn_hidden_size),
                moe_ffn_hidden_size=width(pattern.moe_ffn_hidden_size),
                moe_shared_expert_intermediate_size=width(pattern.moe_shared_expert_intermediate_size),
                moe_layer_freq=_experts_in(pattern, num_layers),
                seq_length=like.seq_length,
                vocab_size=like.vocab_size,
                make_vocab_size_divisible_by=like.make_vocab_size_divisible_by,
                max_position_embeddings=0,
            )
        )


@cache
def _pattern(name: str) -> ModelSpec:
    return find_model(name)


def _named(model: ModelSpec) -> ModelSpec:
    return replace(model, name=f"{model.num_layers} layers x {model.hidden_size}")


def _experts_in(pattern: ModelSpec, num_layers: int) -> str:
    """The layers with experts: all but the first few, or every few of them."""
    if not pattern.num_experts or pattern.moe_layer_freq.strip().isdecimal():
        return pattern.moe_layer_freq
    layers = moe_layers(pattern.moe_layer_freq, pattern.num_layers)
    dense = layers.index(True)
    return write_pattern([0] * dense + [1] * (num_layers - dense))


# Hidden size over layers: GPT-3 (128), Megatron (128 to 200), MT-NLG (195), BLOOM (205).
GPT = Gpt("gpt", "dense GPT models from 6 to 1,000 billion parameters", (96, 210))
_shapes: Registry[Shape] = Registry(ENTRY_POINTS, "shape")
register = _shapes.register
names = _shapes.names

for _shape in (
    GPT,
    # 128, 102 and 130.
    Scaled("llama", "Llama 3 8B, 70B and 405B (arXiv:2407.21783, table 3)", (96, 136), "llama3-70b"),
    # 128 and 110.
    Scaled("mixtral", "Mixtral 8x7B and 8x22B (arXiv:2401.04088)", (104, 134), "mixtral-8x7b"),
    # 43 and 44.
    Scaled("qwen3-moe", "Qwen3 30B-A3B and 235B-A22B (arXiv:2505.09388)", (40, 47), "qwen3-235b-a22b"),
):
    register(_shape)


@cache
def find_shape(name: str) -> Shape:
    """A shape by its name, or that of a model preset or ``config.json``. Raises `UserError`."""
    if (shape := _shapes.find(name)) is not None:
        return shape
    known = presets.names("models")
    if name not in known and not is_config(name):
        close = nearest(name, [*names(), *known])
        raise UserError(
            f"--shape is {name!r}{close}: there are {', '.join(names())}, and those of model presets and of "
            "config.json files"
        )
    model = _pattern(name)
    _check_scales(name, model)
    aspect = model.hidden_size / model.num_layers
    kind = "preset" if name in known else "model"
    return Scaled(name, f"the proportions of the {kind} {name}", (aspect / _NEAR, aspect * _NEAR), name)


def _check_scales(name: str, model: ModelSpec) -> None:
    """Raise `UserError` for a model whose layers follow a pattern that has no meaning for other numbers of them."""
    layered = (model.hybrid_layer_pattern, model.linear_attention_freq, model.window_attn_skip_freq)
    if any(pattern and not pattern.isdecimal() for pattern in layered):
        raise UserError(
            f"--shape {name}: its layers are of several kinds in an order of its own, which has no meaning "
            "for another number of layers"
        )
    if model.num_experts and not model.moe_layer_freq.strip().isdecimal():
        experts = moe_layers(model.moe_layer_freq, model.num_layers)
        if not all(experts[experts.index(True) :]):
            raise UserError(
                f"--shape {name}: --moe-layer-freq {model.moe_layer_freq} is not dense layers and then experts"
            )
