"""Merged files: one that holds the rows of others says so in the metadata of its Parquet schema, ``vtrain.replaces``.

It is written whole under a hidden name and renamed to a name that none of them has; then they are removed. A reader
that finds it ignores what it replaces, so that stopping at any point neither loses nor doubles rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from vtrain_schemas.layout import parse_file_name

_KEY = b"vtrain.replaces"


class Replaced(NamedTuple):
    """A file whose rows another one holds. name: in the same directory. bytes: its size; of another, it is another."""

    name: str
    bytes: int


def replaced_metadata(files: Iterable[Replaced]) -> dict[bytes, bytes]:
    """What the metadata of a merged file says of those that it replaces.

    files: those merged, and what they in turn replace: it may still be there.
    """
    listed = [file._asdict() for file in sorted(set(files))]
    return {_KEY: json.dumps(listed).encode()}


def replaced_of(metadata: Mapping[bytes, bytes] | None) -> tuple[Replaced, ...]:
    """The files that one with this metadata of its Parquet schema replaces, by name; none for one not merged.

    Raises ValueError where the metadata is not as `replaced_metadata` writes it.
    """
    text = (metadata or {}).get(_KEY)
    if text is None:
        return ()
    try:
        files = [Replaced(**entry) for entry in json.loads(text)]
        valid = all(type(f.bytes) is int and f.bytes >= 0 and parse_file_name(f.name) for f in files)
    except (TypeError, ValueError, RecursionError):
        valid = False
    if not valid:
        raise ValueError("vtrain.replaces in its metadata is not a list of files with their sizes")
    return tuple(sorted(files))


def ignored(files: Mapping[str, int], replaced: Iterable[Replaced]) -> set[str]:
    """Names of the files of a directory whose rows a merged file there holds.

    files: bytes by name. replaced: of all merged files among them.
    """
    return {file.name for file in replaced if files.get(file.name) == file.bytes}
