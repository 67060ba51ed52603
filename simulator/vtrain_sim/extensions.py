"""What other installed packages add: entry points, found when a name is not known here."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Generic, Protocol, TypeVar

from vtrain_sim.errors import UserError, nearest


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

    group: of the entry points of other packages. what: one of them is, for messages. unknown: the sentence on a name
    that is none, with {name}, {names} and {sorted} (names in alphabetical order); error: what it is raised as. also:
    names that stand for none of them, and that the sentence lists first.
    """

    def __init__(
        self,
        group: str,
        what: str,
        unknown: str = "",
        error: type[UserError] = UserError,
        also: tuple[str, ...] = (),
    ) -> None:
        self._group, self._what, self._also = group, what, also
        self._unknown, self._error = unknown or f"there is no {what} {{name}}: there are {{names}}", error
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

    def get(self, name: str) -> Item:
        """The object of a name; raises `UserError`, or the error of its own, if there is none."""
        item = self.find(name)
        if item is None:
            known = (*self._also, *self.names())
            listed = {"names": ", ".join(known), "sorted": ", ".join(sorted(known))}
            raise self._error(self._unknown.format(name=f"{name!r}{nearest(name, known)}", **listed))
        return item

    def names(self) -> tuple[str, ...]:
        """All names, other packages' included."""
        load_extensions(self._group, self.register)
        return tuple(self._items)
