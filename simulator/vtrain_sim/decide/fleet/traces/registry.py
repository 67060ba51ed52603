"""Formats of traces by name: those that come with vtrain, those that were registered, and those of other packages."""

from __future__ import annotations

from pathlib import Path

from vtrain_sim.decide.fleet.traces.base import TraceFormat
from vtrain_sim.errors import UserError
from vtrain_sim.extensions import Registry
from vtrain_sim.text_file import check_kind

ENTRY_POINTS = "vtrain.trace_formats"
_formats: Registry[TraceFormat] = Registry(ENTRY_POINTS, "trace format", "--trace-format is {name}: it takes {names}")
register = _formats.register
names = _formats.names
get = _formats.get
# So much of a file tells its format.
_HEAD = 1 << 16


def detect(path: Path) -> TraceFormat | None:
    """The one format that a file's beginning is of; None where it is of none or of several, and for a pipe, which is
    read once. Raises `UserError` for what cannot be read."""
    if path.suffix == ".parquet" or not path.is_file():
        return None
    check_kind(path)
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as stream:
            head = stream.read(_HEAD)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    formats = [f for name in names() if (f := get(name)).recognises(head)]
    return formats[0] if len(formats) == 1 else None
