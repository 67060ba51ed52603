"""How a model is laid over pipeline stages."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_sim.frozen import hashed_once
from vtrain_sim.schedules import Schedule


@hashed_once
@dataclass(frozen=True)
class PipelineSpec:
    """stages, chunks: pipeline parallel size, and model chunks per stage. schedule: the object
    that orders the passes, with its group size.

    wide: layers at the start and at the end whose products are in 16 bits beside narrower ones. symbols: of a hybrid
    model's layers (`specs.hybrid_pattern`), empty for a transformer. mtp_symbols: those of a depth of multi-token
    prediction. mixtures: for each layer, whether it is a mixture of experts. windows: whether it attends to the last
    tokens alone. linears: whether it has a gated delta net. layers: of each virtual stage, in the order in which a
    microbatch passes them. recomputed: how many of the first layers of each chunk run again in the backward pass; None:
    all of them. recomputed_together: so many in a row run again from one input. offloaded: how many of the first layers
    keep their activations in the host's memory. last_stays: the last layer of each chunk offloads no module. tied: the
    output layer shares the embedding's table. mtp: depths of multi-token prediction, with the last virtual stage;
    mtp_repeated: one depth's parameters serve all of them. stage_ranks: ranks of one stage. scatter_gather, batch_p2p:
    how stages exchange, see `ParallelSpec`.
    """

    stages: int
    chunks: int
    schedule: Schedule
    wide: tuple[int, int]
    symbols: str
    mtp_symbols: str
    mixtures: tuple[bool, ...]
    windows: tuple[bool, ...]
    linears: tuple[bool, ...]
    layers: tuple[int, ...]
    recomputed: int | None
    recomputed_together: int
    offloaded: int
    last_stays: bool
    tied: bool
    mtp: int
    mtp_repeated: bool
    stage_ranks: int
    scatter_gather: bool
    batch_p2p: bool
