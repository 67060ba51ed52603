"""Sizes of dense GPT models, in the proportions that published ones have."""

from __future__ import annotations

from vtrain_sim.specs import ModelSpec

# Hidden size over layers of published models from 6 to 1,000 billion parameters: GPT-3 (128), Megatron (128 to
# 200), MT-NLG (195), BLOOM (205), Llama 3 (102 to 130).
_ASPECT = (96, 210)
HEAD_SIZE = 128


# A model of which only the sequence length and the vocabulary matter.
USUAL = ModelSpec(24, 2048, 16, 2048, 51200)


def candidates(like: ModelSpec, low: float, high: float) -> list[ModelSpec]:
    """Models of `low` to `high` parameters, smallest first, with the sequence length and vocabulary of another one.

    Hidden sizes are multiples of 1,024 (of 2,048 from 8,192 on), heads 128 wide, layers multiples of
    4: what tiles of matrix products and pipelines divide.
    """
    models = []
    for hidden in (*range(1024, 8192, 1024), *range(8192, 32769, 2048)):
        for layers in range(8, 257, 4):
            if not _ASPECT[0] <= hidden / layers <= _ASPECT[1]:
                continue
            name = f"{layers} layers x {hidden}"
            model = ModelSpec(
                layers,
                hidden,
                hidden // HEAD_SIZE,
                like.seq_length,
                like.vocab_size,
                make_vocab_size_divisible_by=like.make_vocab_size_divisible_by,
                name=name,
            )
            if low <= parameters(model) <= high:
                models.append(model)
    return sorted(models, key=parameters)


def parameters(model: ModelSpec) -> float:
    """12 L h^2 (1 + 13 / 12 h + (V + s) / 12 L h) (Narayanan et al., SC'21, eq. 2)."""
    h, layers = model.hidden_size, model.num_layers
    return 12.0 * layers * h * h * (1 + 13 / (12 * h) + (model.vocab_size + model.seq_length) / (12 * layers * h))
