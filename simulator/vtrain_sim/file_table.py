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
