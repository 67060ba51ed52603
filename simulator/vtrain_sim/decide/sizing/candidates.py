"""Sizes of models of a shape, in the proportions that published ones have, or close to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple

from vtrain_sim.decide.sizing.shapes import Shape
from vtrain_sim.model.step import active_parameters_of
from vtrain_sim.specs import ModelSpec
from vtrain_sim.specs.checks import SpecError

_HIDDEN = (*range(512, 4096, 512), *range(4096, 8192, 1024), *range(8192, 32769, 2048))
# Of shapes whose models are about equally deep for their width: only the hidden size makes sizes between.
_FINE = (*range(512, 8192, 256), *range(8192, 16384, 512), *range(16384, 32769, 1024))
_NARROW = 1.5
_LAYERS = range(8, 513, 4)
# A size has no more parameters than so many times the next smaller one: else there are models between, of layers in
# steps of 2, and deeper or shallower than published ones by as little as it takes, this factor at most.
GAP = 1.1
_BETWEEN_LAYERS = range(4, 513, 2)
_BEYOND = 1.4
# How well the parameters are known before the model is made, as a factor.
_NEARLY = 1.05


def candidates(shape: Shape, like: ModelSpec) -> list[ModelSpec]:
    """Models of a shape by the parameters that a token uses, fewest first.

    like: the model whose sequence length and vocabulary they have. Hidden sizes are multiples of 512 (of 1,024 from
    4,096 and of 2,048 from 8,192 on; of less where the shape leaves little choice of layers), layers multiples of 4:
    what tiles of matrix products and pipelines divide. Where these leave a gap (`GAP`), layers are multiples of 2.
    """
    hidden = _FINE if shape.aspect[1] / shape.aspect[0] < _NARROW else _HIDDEN
    published = sorted(_published(shape, like, hidden), key=lambda sized: sized.active)
    gaps = [(one, other) for one, other in pairwise(published) if other.active > GAP * one.active]
    between = sorted(_between(shape, like, hidden, gaps), key=lambda sized: sized.active)
    filling = [sized for one, other in gaps for sized in _filling(one, other, between)]
    return [sized.model for sized in sorted([*published, *filling], key=lambda sized: sized.active)]


class _Sized(NamedTuple):
    """A model, the parameters that a token uses, and how far its proportions are from published ones (1: they are)."""

    model: ModelSpec
    active: int
    distance: float


Gaps = Sequence[tuple[_Sized, _Sized]]


def _published(shape: Shape, like: ModelSpec, hidden: Sequence[int]) -> Iterator[_Sized]:
    """Models in published proportions."""
    for size in hidden:
        yield from _of(shape, like, size, [layers for layers in _LAYERS if _distance(shape, size, layers) <= 1])


def _between(shape: Shape, like: ModelSpec, hidden: Sequence[int], gaps: Gaps) -> Iterator[_Sized]:
    """Models in about published proportions, as far as they lie in gaps."""
    for size in hidden:
        depths = [layers for layers in _BETWEEN_LAYERS if _distance(shape, size, layers) <= _BEYOND]
        ends = [*_of(shape, like, size, [depths[0], depths[-1]])] if depths else []
        if len(ends) < 2:
            continue
        # Layers are alike: what so many have lies between.
        each = (ends[1].active - ends[0].active) / max(1, depths[-1] - depths[0])
        about = {layers: ends[0].active + each * (layers - depths[0]) for layers in depths}
        near = [n for n in depths if any(a.active < _NEARLY * about[n] < _NEARLY**2 * b.active for a, b in gaps)]
        yield from _of(shape, like, size, near)


def _of(shape: Shape, like: ModelSpec, hidden: int, depths: Sequence[int]) -> Iterator[_Sized]:
    """Models of a hidden size; none where its heads do not divide."""
    for layers in depths:
        with suppress(SpecError):
            model = shape.model(layers, hidden, like)
            yield _Sized(model, active_parameters_of(model), _distance(shape, hidden, layers))


def _distance(shape: Shape, hidden: int, layers: int) -> float:
    low, high = shape.aspect
    return max(low * layers / hidden, hidden / layers / high, 1.0)


def _filling(smaller: _Sized, larger: _Sized, between: Sequence[_Sized]) -> Iterator[_Sized]:
    """As few of the models between two as leave no gap, those closest to published proportions."""
    active = smaller.active
    while larger.active > GAP * active:
        above = [sized for sized in between if active < sized.active < larger.active]
        near = [sized for sized in above if sized.active <= GAP * active]
        # Not the nearer half: such a step is hardly one.
        near = [sized for sized in near if sized.active >= (1 + GAP) / 2 * active] or near or above[:1]
        if not near:
            return
        chosen = min(near, key=lambda sized: (sized.distance, -sized.active))
        yield chosen
        active = chosen.active
