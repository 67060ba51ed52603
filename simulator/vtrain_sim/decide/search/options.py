"""The parts that candidates of a search are put together from."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.decide.search.choices import LayerSizes, Setting
from vtrain_sim.decide.search.cuts import Layers
from vtrain_sim.errors import UserError
from vtrain_sim.frozen import computed
from vtrain_sim.model.chunks import Contents
from vtrain_sim.schedules import PipelineShape, Schedule
from vtrain_sim.specs import Configuration
from vtrain_sim.specs.shard import ShardSpec

if TYPE_CHECKING:
    from vtrain_sim.decide.search.space import Space

Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LayerOption:
    """How a microbatch runs through a layer. world: a number of GPUs in which its groups lie as in all that have it.

    parent: the same without modules that run again; None where there are none. splits: weight gradients are passes of
    their own. like: number of its setting and split, in `Space.likes`.
    """

    space: Space = field(repr=False)
    sizes: LayerSizes
    setting: Setting
    splits: bool
    world: int
    parent: LayerOption | None = None
    like: int = 0

    @computed
    def prototype(self) -> Configuration:
        """A configuration whose layers run so. Raises `UserError` where Megatron refuses it."""
        return self.space.prototype(self)

    @property
    def shard(self) -> ShardSpec:
        """What its operators depend on."""
        return self.prototype.shard


@dataclass(frozen=True, eq=False)
class PipelineOption:
    """How layers are cut into stages, in what order passes run, and what runs again. contents: what places hold."""

    pp: int
    vpp: int
    layers: Layers
    schedule: str
    order: Schedule
    setting: Setting
    contents: Contents

    def takes(self, microbatches: int) -> bool:
        """Whether its schedule runs so many microbatches."""
        return takes(self.order, PipelineShape(self.pp, self.vpp, microbatches))


@lru_cache(maxsize=1 << 16)
def takes(order: Schedule, shape: PipelineShape) -> bool:
    """Whether a schedule runs a pipeline of this shape."""
    try:
        order.check(shape)
    except UserError:
        return False
    return True


class Lanes(NamedTuple):
    """[lanes] layers on a pipeline of one size: which option, GPUs, data parallel size, sequences and microbatches of a
    step on each replica."""

    option: Integers
    gpus: Integers
    dp: Integers
    batch: Integers
    microbatches: Integers

    def pick(self, which: NDArray[np.bool_] | Integers) -> Lanes:
        """Some of them."""
        return Lanes(*(column[which] for column in self))
