"""How the layers of a model may be cut into virtual pipeline stages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from vtrain_sim.errors import UserError
from vtrain_sim.model.flops import head_in_layers
from vtrain_sim.specs import ModelSpec
from vtrain_sim.specs.pipeline_layout import parse_layout, uneven

# Chunks of a stage: more only add messages.
MOST_CHUNKS = 12
# Uneven pipelines are tried at these sizes beside the divisors of the layers, with and without the ends counted.
UNEVEN_STAGES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
# Layers of each virtual stage, in the order in which a microbatch passes them; () where all have the same.
Layers: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class GivenCut:
    """How Megatron's flags cut the layers, whatever the pipeline is: by a layout (--pipeline-model-parallel-layout,
    with mtp depths of multi-token prediction), by the layers of a chunk, of the first and of the last stage, or with
    the embedding and the loss counted as a layer each."""

    layout: str = ""
    mtp: int = 0
    layers_per_chunk: int = 0
    first: int | None = None
    last: int | None = None
    embedding: bool = False
    loss: bool = False

    def layers(self, num_layers: int, pp: int, vpp: int) -> Layers | None:
        """Layers of the virtual stages; None where the flags are of pipelines of other sizes."""
        try:
            if self.layout:
                layers = parse_layout(self.layout, pp, self.mtp)
                return layers if len(layers) == pp * vpp else None
            if self.layers_per_chunk and self.layers_per_chunk * pp * vpp != num_layers:
                return None
            return uneven(num_layers, pp, vpp, self.first, self.last, self.embedding, self.loss)
        except UserError:
            return None

    def check(self, num_layers: int) -> None:
        """Raises `UserError` where the flags go with no pipeline at all."""
        if self.layout:
            parse_layout(self.layout, 1, self.mtp)
        sizes = range(1, num_layers + 3)
        if all(self.layers(num_layers, pp, vpp) is None for pp in sizes for vpp in range(1, MOST_CHUNKS + 1)):
            flags = {
                "--num-layers-per-virtual-pipeline-stage": self.layers_per_chunk,
                "--decoder-first-pipeline-num-layers": self.first,
                "--decoder-last-pipeline-num-layers": self.last,
                "--account-for-embedding-in-pipeline-split": self.embedding,
                "--account-for-loss-in-pipeline-split": self.loss,
                "--pipeline-model-parallel-layout": self.layout,
            }
            given = " and ".join(flag for flag, value in flags.items() if value)
            raise UserError(f"{given}: no pipeline of the model's {num_layers} layers is cut so")


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def stage_counts(model: ModelSpec) -> list[int]:
    """Pipeline sizes worth a try: those that divide the layers, also with embedding and loss counted, and some more."""
    layers = model.num_layers
    even = {size for counted in (0, 1, 2) for size in divisors(layers + counted) if size <= layers}
    return sorted({*even, *(size for size in UNEVEN_STAGES if size <= layers)})


def cuts(model: ModelSpec, pp: int, given: GivenCut | None = None) -> Iterator[tuple[int, Layers]]:
    """(chunks of a stage, layers of the virtual stages) of a pipeline: each cut once, the fewest chunks first.

    Beside even ones, cuts whose first and last virtual stage are the shorter by what embedding and loss take: a layer
    each, as Megatron-Core counts them (--account-for-embedding-in-pipeline-split), or the loss by its FLOPs. What is
    left over goes to stages in the middle. given: the cut that flags say, where they do.
    """
    most = MOST_CHUNKS if pp > 1 else 1
    for vpp in range(1, most + 1):
        if pp * vpp > model.num_layers and vpp > 1 and given is None:
            return
        if given is not None:
            cut = given.layers(model.num_layers, pp, vpp)
            several = [] if cut is None else [() if len(set(cut)) == 1 else cut]
        else:
            several = _of_chunks(model, pp, vpp)
        for layers in several:
            yield vpp, layers


def _of_chunks(model: ModelSpec, pp: int, vpp: int) -> list[Layers]:
    if pp == 1:
        return [()]
    loss = max(1, round(head_in_layers(model)))
    counted = ((0, 0), (0, 1), (1, 1), (0, loss), (1, loss))
    shapes = [balanced(model.num_layers, pp, vpp, embedding, head) for embedding, head in counted]
    return list(dict.fromkeys(() if len(set(layers)) == 1 else layers for layers in shapes))


def balanced(num_layers: int, pp: int, vpp: int, embedding: int = 0, loss: int = 0) -> Layers:
    """Layers of each virtual stage where the embedding stands for so many in the first, and the loss in the last.

    As even as can be, stage by stage and chunk by chunk; the stages with the ends of the model are the short ones.
    """
    each, over = divmod(num_layers + embedding + loss, pp * vpp)
    per_stage, stages_over = divmod(over, pp)
    # Of the stages, the last and then the first are the last to get one more.
    by_need = [*range(1, pp - 1), 0, pp - 1] if pp > 1 else [0]
    longer = set(by_need[:stages_over])
    counts = [each] * (pp * vpp)
    for stage in range(pp):
        # Late chunks are in fewer microbatches in flight.
        for chunk in range(vpp - per_stage - (stage in longer), vpp):
            counts[chunk * pp + stage] += 1
    return _shortened(counts, embedding, loss)


def _shortened(counts: list[int], embedding: int, loss: int) -> Layers:
    """Take the ends out of the first and the last virtual stage, and of their neighbours where these are too short."""
    for place, step, less in ((0, 1, embedding), (len(counts) - 1, -1, loss)):
        while less:
            taken = min(less, counts[place])
            counts[place] -= taken
            less -= taken
            place += step
    return tuple(counts)
