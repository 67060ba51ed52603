"""Where gangs go: packed on few nodes, only on as few as hold them, or spread over many."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.decide.fleet.placement.base import Placement
from vtrain_sim.decide.fleet.placement.nodes import Gang, Nodes, Places

_Ints = NDArray[np.int64]


def consolidated(nodes: Nodes, gpus: int) -> Gang | None:
    """On as few nodes as hold the gang, or not at all: empty nodes of one rack if one has enough (the one with the
    fewest), and for the rest the node with the fewest free GPUs that are enough."""
    if not nodes.holds(gpus):
        return None
    whole, rest = divmod(gpus, nodes.size)
    chosen: Places = [(node, nodes.size) for node in _together(nodes, whole, np.flatnonzero(nodes.free == nodes.size))]
    if rest:
        chosen.append((_best_fit(nodes, rest, [node for node, _ in chosen]), rest))
    return nodes.take(chosen, min(gpus, nodes.size))


def packed(nodes: Nodes, gpus: int) -> Gang | None:
    """As `consolidated`; else in the largest chunks that fit, each on one node, from the fullest node on."""
    gang = consolidated(nodes, gpus)
    if gang is not None or int(nodes.free.sum()) < gpus:
        return gang
    for chunk in chunks(nodes.size, gpus)[1:]:
        if (places := _in_chunks(nodes, gpus, chunk, nodes.free // chunk)) is not None:
            return nodes.take(places, chunk)
    return None


def spread(nodes: Nodes, gpus: int) -> Gang | None:
    """The smallest chunks, one on each node, from the emptiest node on; `packed` where there are too few nodes."""
    for chunk in reversed(chunks(nodes.size, gpus)):
        has = np.flatnonzero(nodes.free >= chunk)
        count = -(-gpus // chunk)
        if len(has) >= count:
            emptiest = has[np.argsort(-nodes.free[has], kind="stable")][:count].tolist()
            sizes = [chunk] * (count - 1) + [gpus - chunk * (count - 1)]
            return nodes.take(list(zip(emptiest, sizes, strict=True)), chunk)
    return packed(nodes, gpus)


def chunks(size: int, gpus: int) -> list[int]:
    """How large the parts of a gang on one node may be, largest first: all of it, or the node; and divisors of these
    nodes' size below that."""
    largest = min(size, gpus)
    return [largest, *(c for c in range(largest - 1, 0, -1) if size % c == 0)]


def _in_chunks(nodes: Nodes, gpus: int, chunk: int, room: _Ints) -> Places | None:
    """Whole chunks from the fullest node on, and what is over; None where too few fit."""
    whole, rest = divmod(gpus, chunk)
    if int(room.sum()) < whole:
        return None
    places: Places = []
    left = nodes.free.copy()
    for node in np.argsort(np.where(room > 0, nodes.free, np.iinfo(np.int64).max), kind="stable").tolist():
        if not whole:
            break
        taken = min(whole, int(room[node]))
        places.append((node, taken * chunk))
        left[node] -= taken * chunk
        whole -= taken
    if rest:
        fits = np.flatnonzero(left >= rest)
        if not len(fits):
            return None
        places.append((int(fits[np.argmin(left[fits])]), rest))
    return places


def _best_fit(nodes: Nodes, gpus: int, chosen: list[int]) -> int:
    """The node with the fewest free GPUs that are enough, none of the chosen, in a rack of theirs if there is one."""
    fits = np.setdiff1d(np.flatnonzero(nodes.free >= gpus), chosen)
    if nodes.rack and chosen:
        near = fits[np.isin(fits // nodes.rack, np.array(chosen) // nodes.rack)]
        fits = near if len(near) else fits
    return int(fits[np.argmin(nodes.free[fits])])


def _together(nodes: Nodes, count: int, empty: _Ints) -> list[int]:
    """So many of the empty nodes, of as few racks as can be."""
    if not nodes.rack or not count:
        return list(empty[:count].tolist())
    racks, free = np.unique(empty // nodes.rack, return_counts=True)
    enough = np.flatnonzero(free >= count)
    order = racks[enough[np.argmin(free[enough])]][None] if len(enough) else racks[np.argsort(-free, kind="stable")]
    chosen: list[int] = []
    for rack in order.tolist():
        own = empty[empty // nodes.rack == rack]
        chosen += own[: count - len(chosen)].tolist()
    return chosen


PACKED = Placement("packed", "as few nodes as can be, else the largest chunks that fit", packed)
CONSOLIDATED = Placement("consolidated", "only as few nodes as hold it; a gang waits until they are free", consolidated)
SPREAD = Placement("spread", "the emptiest nodes, as many as there are", spread)
