"""Replaces attributes of modules and classes, and puts every one back."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

Function: TypeAlias = Callable[..., Any]
Wrapper: TypeAlias = Callable[[Function], Function]
# What a wrapped function is called with: anything.
Args: TypeAlias = tuple[Any, ...]
Kwargs: TypeAlias = dict[str, Any]


class Patches:
    """A stack of replaced attributes.

    packages: whose modules may hold their own reference to a function that is wrapped, for example
    ``from torch.distributed import all_gather_into_tensor``; those of the framework are added to them.
    """

    def __init__(self, *packages: str) -> None:
        self.packages: tuple[str, ...] = ("__main__", "torch.distributed", *packages)
        # (owner, name, what it was, what it is now, whether the owner inherited it)
        self._undo: list[tuple[object, str, object, object, bool]] = []

    def replace(self, owner: object, name: str, replacement: object) -> None:
        """Set ``owner.name``; `remove` restores it."""
        inherited = name not in vars(owner)
        self._undo.append((owner, name, vars(owner).get(name), replacement, inherited))
        setattr(owner, name, replacement)

    def wrap(self, owner: object, name: str, make: Wrapper) -> bool:
        """Replace a function by ``make(function)``; False where the owner has none of that name."""
        original = vars(owner).get(name) if isinstance(owner, type) else getattr(owner, name, None)
        if not callable(original):
            return False
        self.replace(owner, name, functools.wraps(original)(make(original)))
        return True

    def wrap_function(self, module: object, name: str, make: Wrapper) -> bool:
        """Like `wrap`, and also wherever a module of the training stack holds the same function."""
        original = getattr(module, name, None)
        if not callable(original):
            return False
        replacement = functools.wraps(original)(make(original))
        self.replace(module, name, replacement)
        for other_name, other in list(sys.modules.items()):
            if other is None or other is module or other_name.split(".")[0] == "vtrain_plugin":
                continue
            if not other_name.startswith(self.packages):
                continue
            for alias, value in list(vars(other).items()):
                if value is original:
                    self.replace(other, alias, replacement)
        return True

    def remove(self) -> None:
        """Restore everything, last first, but for what another tool has replaced since. Never raises."""
        while self._undo:
            owner, name, original, replacement, inherited = self._undo.pop()
            if vars(owner).get(name) is not replacement:
                continue
            try:
                if inherited:
                    delattr(owner, name)
                else:
                    setattr(owner, name, original)
            except (AttributeError, TypeError):
                pass
