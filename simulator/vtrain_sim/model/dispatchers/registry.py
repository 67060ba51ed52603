"""The dispatchers that are known, by name."""

from __future__ import annotations

from vtrain_sim.errors import UserError, nearest
from vtrain_sim.extensions import load_extensions
from vtrain_sim.model.dispatchers.base import Dispatcher

ENTRY_POINTS = "vtrain.dispatchers"
_DISPATCHERS: dict[str, Dispatcher] = {}
# Megatron's word for the dispatchers that are known by their backends (`inputs.layout_values`).
_FLEX = "flex"


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


def check_dispatcher(name: str, num_experts: int) -> None:
    """Raise `UserError` for a token dispatcher that is not simulated.

    A model without experts may ask for any of Megatron-Core's.
    """
    if not num_experts and name in (*names(), _FLEX):
        return
    try:
        dispatcher(name)
    except UserError as error:
        raise UserError(f"{error} or {_FLEX} (the backend is --moe-flex-dispatcher-backend)") from None
