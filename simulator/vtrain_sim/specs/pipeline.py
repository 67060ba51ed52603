"""How a model is laid over pipeline stages."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_sim.frozen import hashed_once
from vtrain_sim.schedules import Schedule


@hashed_once
@dataclass(frozen=True)
class LayersSpec:
    """The layers of a model in order, and what of them each virtual stage has.

    mixtures, windows, linears: for each layer, whether it is a mixture of experts, attends to the last tokens alone,
    and has a gated delta net. symbols: of the layers of a hybrid model (`specs.hybrid_pattern`), empty for a
    transformer. wide: layers at the start and at the end whose products are in 16 bits beside narrower ones.
    counts: layers of each virtual stage, in the order in which a microbatch passes them. recomputed: how many of
    the first layers of each virtual stage run again in the backward pass; None: all of them. recomputed_together:
    so many in a row run again from one input. offloaded: how many of the first layers keep their activations in the
    host's memory. last_stays: the last layer of each virtual stage offloads no module. tied: the output layer
    shares the embedding's table. mtp: depths of multi-token prediction, with the last virtual stage; mtp_symbols:
    of the layers of one depth; mtp_repeated: one depth's parameters serve all of them.
    """

    mixtures: tuple[bool, ...]
    windows: tuple[bool, ...]
    linears: tuple[bool, ...]
    symbols: str
    wide: tuple[int, int]
    counts: tuple[int, ...]
    recomputed: int | None
    recomputed_together: int
    offloaded: int
    last_stays: bool
    tied: bool
    mtp: int
    mtp_symbols: str
    mtp_repeated: bool


@hashed_once
@dataclass(frozen=True)
class PipelineSpec:
    """stages, chunks: pipeline parallel size, and model chunks per stage. schedule: the object that orders the passes,
    with its group size. layers: what its virtual stages hold. stage_ranks: ranks of one stage. scatter_gather,
    batch_p2p: how stages exchange, see `ParallelSpec`. host_waits: for each exchange that the schedule
    does not overlap, the host waits for the device.
    """

    stages: int
    chunks: int
    schedule: Schedule
    layers: LayersSpec
    stage_ranks: int
    scatter_gather: bool
    batch_p2p: bool
    host_waits: bool
