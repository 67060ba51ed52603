"""What other installed packages add: entry points, found when a name is not known here."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

Extension = TypeVar("Extension")


@cache
def load_extensions(group: str, register: Callable[[Extension], object]) -> None:
    """Register everything behind the entry points of a group, once: each is an object, or a class that makes it."""
    # Loading it takes longer than most commands of this package need: not before something asks for it.
    from importlib.metadata import entry_points

    for entry in entry_points(group=group):
        extension = entry.load()
        register(extension() if isinstance(extension, type) else extension)
