"""Version of the profile tables.

A minor version adds nullable columns; a reader of a newer minor version fills what an older file
lacks with nulls. A major version changes the meaning of a column; it is refused.
"""

from __future__ import annotations

import re

SCHEMA_VERSION = "1.4"
_VERSION = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})")
# What a sentence shows of a text that is no version.
_SHOWN = 40


class SchemaVersionError(ValueError):
    """A file was written with a schema that this version of vtrain cannot read."""


def parse_version(version: str) -> tuple[int, int]:
    """``"1.3"`` -> ``(1, 3)``; raises `SchemaVersionError` for anything else."""
    match = _VERSION.fullmatch(version)
    if not match:
        raise SchemaVersionError(
            f"schema version {version[:_SHOWN]!r} is not of the form MAJOR.MINOR, for example {SCHEMA_VERSION!r}"
        )
    return int(match[1]), int(match[2])


def check_version(version: str, where: str = "the profile") -> None:
    """Accept any file of our major version; refuse another major version with one sentence."""
    major, _ = parse_version(version)
    ours, _ = parse_version(SCHEMA_VERSION)
    if major > ours:
        raise SchemaVersionError(
            f"{where} was written with profile schema {version}, newer than the {SCHEMA_VERSION} that "
            "this vtrain reads: upgrade vtrain to read it"
        )
    if major < ours:
        raise SchemaVersionError(
            f"{where} was written with profile schema {version}, older than the oldest ({ours}.0) that "
            "this vtrain reads: capture it again, or read it with the vtrain that wrote it"
        )
