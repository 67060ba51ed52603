"""What other installed packages add: entry points, found when a name is not known here."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Generic, Protocol, TypeVar


class Named(Protocol):
    """What is known by a name."""

    @property
    def name(self) -> str: ...


Extension = TypeVar("Extension")
Item = TypeVar("Item", bound=Named)


@cache
def load_extensions(group: str, register: Callable[[Extension], object]) -> None:
    """Register everything behind the entry points of a group, once: each is an object, or a class that makes it."""
    # Loading it takes longer than most commands of this package need: not before something asks for it.
    from importlib.metadata import entry_points

    for entry in entry_points(group=group):
        extension = entry.load()
        register(extension() if isinstance(extension, type) else extension)


class Registry(Generic[Item]):
    """Objects by name: those that were registered, and those of other packages.

    group: of the entry points of other packages. what: one of them is, for messages.
    """

    def __init__(self, group: str, what: str) -> None:
        self._group, self._what = group, what
        self._items: dict[str, Item] = {}

    def register(self, item: Item) -> Item:
        """Make an object known by its name; raises `ValueError` if the name is taken by another one."""
        if self._items.setdefault(item.name, item) != item:
            raise ValueError(f"there is a {self._what} {item.name!r} already")
        return item

    def find(self, name: str) -> Item | None:
        """The object of a name; None if there is none."""
        if name not in self._items:
            load_extensions(self._group, self.register)
        return self._items.get(name)

    def names(self) -> tuple[str, ...]:
        """All names, other packages' included."""
        load_extensions(self._group, self.register)
        return tuple(self._items)
