"""What files and flags say, before it is a spec: the border where values may be of any type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

# A table of a TOML, YAML or JSON file. Values are checked by the spec that they become a field of.
FileTable: TypeAlias = Mapping[str, Any]
# A list in such a file.
FileList: TypeAlias = list[Any]
# Fields of a spec by their names, as they are given to its constructor.
SpecFields: TypeAlias = dict[str, Any]

_MOST_VALUES = 1_000_000


def is_endless(content: object) -> bool:
    """Whether what a file holds has more values than anybody writes, counted where they are used.

    A list may be in another many times, or in itself: aliases of YAML, references of a pickle.
    """
    stack, count = [content], 1
    while stack:
        value = stack.pop()
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple, set)) else ()
        count += len(inner)
        if count > _MOST_VALUES:
            return True
        stack.extend(inner)
    return False
