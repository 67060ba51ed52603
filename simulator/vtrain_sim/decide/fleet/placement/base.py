"""What a placement is: on which nodes a gang goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vtrain_sim.decide.fleet.placement.nodes import Gang, Nodes


@dataclass(frozen=True)
class Placement:
    """A placement by name. says: what it does. place: takes GPUs for a gang; None: not now, so the gang waits."""

    name: str
    says: str
    place: Callable[[Nodes, int], Gang | None]
