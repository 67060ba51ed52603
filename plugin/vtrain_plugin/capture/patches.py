"""Replaces attributes of modules and classes, and puts every one back."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

# Packages whose modules may hold their own reference to a function that is wrapped, for example
# ``from torch.distributed import all_gather_into_tensor``.
_ALIAS_PACKAGES = ("megatron", "transformer_engine", "nemo", "__main__", "torch.distributed")


class Patches:
    """A stack of replaced attributes."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any, bool]] = []

    def replace(self, owner: Any, name: str, replacement: Any) -> None:
        """Set ``owner.name``; `remove` restores it."""
        own = name in vars(owner)
        self._undo.append((owner, name, vars(owner).get(name), own))
        setattr(owner, name, replacement)

    def wrap(self, owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> bool:
        """Replace a function by ``make(function)``; False where the owner has none of that name."""
        original = vars(owner).get(name) if isinstance(owner, type) else getattr(owner, name, None)
        if not callable(original):
            return False
        self.replace(owner, name, functools.wraps(original)(make(original)))
        return True

    def wrap_function(self, module: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> bool:
        """Like `wrap`, and also wherever a module of the training stack holds the same function."""
        original = getattr(module, name, None)
        if not callable(original):
            return False
        replacement = functools.wraps(original)(make(original))
        self.replace(module, name, replacement)
        for other_name, other in list(sys.modules.items()):
            if other is None or other is module or other_name.split(".")[0] == "vtrain_plugin":
                continue
            if not other_name.startswith(_ALIAS_PACKAGES):
                continue
            for alias, value in list(vars(other).items()):
                if value is original:
                    self.replace(other, alias, replacement)
        return True

    def remove(self) -> None:
        """Restore everything, last first. Never raises."""
        while self._undo:
            owner, name, original, own = self._undo.pop()
            try:
                if own:
                    setattr(owner, name, original)
                else:
                    delattr(owner, name)
            except (AttributeError, TypeError):
                pass
