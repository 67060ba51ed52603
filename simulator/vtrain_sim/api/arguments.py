"""Checks of what is passed to the verbs from Python: the wrong kind of object is a sentence too."""

from __future__ import annotations

from pathlib import Path

from vtrain_sim.errors import UserError
from vtrain_sim.model.dispatchers import dispatcher, names


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
    if num_experts or name not in (*names(), "flex"):
        dispatcher(name)
