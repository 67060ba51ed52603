"""Checks of what is passed to the verbs from Python: the wrong kind of object is a sentence too."""

from __future__ import annotations

from pathlib import Path

from vtrain_sim.errors import UserError


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
