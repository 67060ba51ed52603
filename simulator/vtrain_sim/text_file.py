"""Files of the user's that are read whole: regular ones and pipes, up to a size that no text of a job has."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vtrain_sim.errors import SpecError

LARGEST_BYTES = 64 << 20


def read_bytes(path: Path) -> bytes:
    """What a file holds. Raises `SpecError` for what cannot be read, a device, and more than `LARGEST_BYTES`."""
    check_kind(path)
    try:
        with open(path, "rb") as stream:
            data = stream.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > LARGEST_BYTES:
        raise SpecError(
            f"cannot read {path}: it has more than {LARGEST_BYTES >> 20} MiB, no text that vtrain takes has"
        )
    return data


def read_text(path: Path) -> str:
    """A text in UTF-8, without its byte order mark, lines ended by newlines alone. Raises `SpecError`."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SpecError(f"cannot read {path}: it is not text") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_kind(path: Path) -> None:
    """Raise `SpecError` for a device, which may never end; a terminal does."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise SpecError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and not _is_terminal(path)):
        raise SpecError(f"cannot read {path}: it is a device, neither a file nor a pipe")


def _is_terminal(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.isatty(descriptor)
    finally:
        os.close(descriptor)
