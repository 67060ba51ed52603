"""What the parts of the model are called, as the plugin calls its modules."""

from __future__ import annotations

from collections.abc import Sequence

from vtrain_sim.model.chunks import Contents
from vtrain_sim.simulate.cost_model import TimedProgram

_LAYER = "layer"


def part_names(contents: Contents, sequences: Sequence[Sequence[TimedProgram]]) -> list[list[str]]:
    """[places] names of the programs of each place, in forward order.

    Layers are numbered through the whole model from 0, as modules are (``decoder.layers.0``). sequences: [places]
    the programs.
    """
    placement = contents.placement
    names: list[list[str]] = [[] for _ in sequences]
    first = 0
    for virtual_stage in range(placement.virtual_stages):
        places = placement.places_of(virtual_stage)
        layers = contents.of_place(places[0]).num_layers
        for place in places:
            names[place] = _of_place(sequences[place], first, layers)
        first += layers
    return names


def _of_place(programs: Sequence[TimedProgram], first: int, layers: int) -> list[str]:
    names, seen = [], 0
    for timed in programs:
        name = timed.program.name
        if name.startswith(_LAYER):
            # Those beyond the decoder's are of multi-token prediction.
            name = f"decoder.layers.{first + seen}" if seen < layers else f"mtp.layers.{seen - layers}"
            seen += 1
        names.append(name)
    return names
