"""Finds the function that renders a type of result; the module that has it is imported when first needed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from vtrain_sim.results import Result

F = TypeVar("F", bound=Callable[..., object])


class ByType(Generic[F]):
    """Functions by the class of a result.

    modules: for the full name of a class, the module that registers its function. Results are imported by their
    own commands only, so that a projection waits for no other command's libraries.
    """

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = dict(modules)
        self._functions: dict[type[Result], F] = {}

    def register(self, kind: type[Result]) -> Callable[[F], F]:
        """Decorator: the function renders results of this class."""

        def keep(function: F) -> F:
            self._functions[kind] = function
            return function

        return keep

    def find(self, result: Result) -> F | None:
        """The function of the result's class or of the nearest class above it."""
        for kind in type(result).__mro__:
            module = self._modules.get(f"{kind.__module__}.{kind.__qualname__}")
            if module is not None and kind not in self._functions:
                importlib.import_module(module)
            if kind in self._functions:
                return self._functions[kind]
        return None
