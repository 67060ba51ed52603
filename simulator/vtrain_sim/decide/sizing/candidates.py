"""Sizes of models of a shape, in the proportions that published ones have."""

from __future__ import annotations

from vtrain_sim.decide.sizing.shapes import Shape
from vtrain_sim.model.step import active_parameters_of
from vtrain_sim.specs import ModelSpec
from vtrain_sim.specs.checks import SpecError

_HIDDEN = (*range(512, 4096, 512), *range(4096, 8192, 1024), *range(8192, 32769, 2048))
# Of shapes whose models are about equally deep for their width: only the hidden size makes sizes between.
_FINE = (*range(512, 8192, 256), *range(8192, 16384, 512), *range(16384, 32769, 1024))
_NARROW = 1.5
_LAYERS = range(8, 513, 4)


def candidates(shape: Shape, like: ModelSpec) -> list[ModelSpec]:
    """Models of a shape by the parameters that a token uses, fewest first.

    like: the model whose sequence length and vocabulary they have. Hidden sizes are multiples of 512 (of 1,024 from
    4,096 and of 2,048 from 8,192 on; of less where the shape leaves little choice of layers), layers multiples of 4:
    what tiles of matrix products and pipelines divide.
    """
    low, high = shape.aspect
    models = []
    for hidden in _FINE if high / low < _NARROW else _HIDDEN:
        for layers in _LAYERS:
            if low <= hidden / layers <= high:
                try:
                    models.append(shape.model(layers, hidden, like))
                except SpecError:
                    continue  # no such model: heads do not divide
    return sorted(models, key=active_parameters_of)
