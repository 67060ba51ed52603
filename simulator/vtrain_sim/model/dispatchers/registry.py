"""The dispatchers that are known, by name."""

from __future__ import annotations

from vtrain_sim.errors import UserError, nearest
from vtrain_sim.extensions import load_extensions
from vtrain_sim.model.dispatchers.base import Dispatcher

ENTRY_POINTS = "vtrain.dispatchers"
_DISPATCHERS: dict[str, Dispatcher] = {}


def register(new: Dispatcher) -> None:
    """Add a dispatcher, or replace the one of the same name."""
    _DISPATCHERS[new.name] = new


def names() -> list[str]:
    """Names of the dispatchers that are simulated."""
    return sorted(_DISPATCHERS)


def dispatcher(name: str) -> Dispatcher:
    """The dispatcher of a name; raises `UserError` with the known ones."""
    if name not in _DISPATCHERS:
        load_extensions(ENTRY_POINTS, register)
    if name not in _DISPATCHERS:
        raise UserError(
            f"--moe-token-dispatcher-type {name} is not simulated{nearest(name, _DISPATCHERS)}: "
            f"it takes {' or '.join(names())}"
        )
    return _DISPATCHERS[name]
