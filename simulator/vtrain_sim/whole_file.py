"""Files are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from vtrain_sim.errors import UserError


def check_place(path: str | Path) -> None:
    """Raise `UserError` for a file whose directory does not exist, before the work that it is to hold is done."""
    directory = Path(path).parent
    if not directory.is_dir():
        raise UserError(f"there is no directory {directory}")


def write_file(path: str | Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file beside its place and move it there; a refusal of the disk is a sentence."""
    hidden = Path(f"{path}.{os.getpid()}.tmp")
    try:
        try:
            with hidden.open("wb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(hidden, path)
        except BaseException:
            hidden.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
