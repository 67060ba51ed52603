"""Checks of what is passed to the verbs from Python: the wrong kind of object is a sentence too."""

from __future__ import annotations

from pathlib import Path

from vtrain_sim.errors import UserError
from vtrain_sim.model.dispatchers import dispatcher, names

# Megatron's word for the dispatchers that are known by their backends (`inputs.layout_values`).
_FLEX = "flex"


def name_of(what: str, value: object) -> str:
    """Name of a preset, or path of a file; raises `UserError` for anything else."""
    if not isinstance(value, (str, Path)):
        raise UserError(f"{what} is {value!r}: it takes the name of a preset, or a file")
    return str(value)


def file_of(what: str, value: object) -> Path:
    """Path of a file; raises `UserError` for anything else."""
    if not isinstance(value, (str, Path)):
        raise UserError(f"{what} is {value!r}: it takes a file")
    return Path(value)


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
