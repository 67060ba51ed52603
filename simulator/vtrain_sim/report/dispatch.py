"""Finds the function that renders a type of result; the module that has it is imported when first needed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from typing import Generic, TypeVar

from vtrain_sim.results import Result

F = TypeVar("F", bound=Callable[..., object])

# What commands of the simulator result in; whatever renders it has a module of that name for it.
_SIMULATED = {
    "projection": "vtrain_sim.simulate.result.Projection",
    "timeline": "vtrain_sim.simulate.spans.Timeline",
    "sweep": "vtrain_sim.decide.sweep.SweepResult",
    "plan": "vtrain_sim.decide.plan_result.PlanResult",
    "fleet": "vtrain_sim.decide.fleet.result.FleetResult",
    "size": "vtrain_sim.decide.sizing.result.SizeResult",
    "study": "vtrain_sim.decide.study.result.StudyResult",
    "validation": "vtrain_sim.validate.result.ValidationResult",
    "comparison": "vtrain_sim.validate.comparison.Comparison",
    "difference": "vtrain_sim.validate.difference.Difference",
    "sensitivity": "vtrain_sim.decide.sensitivity.Sensitivity",
}


def simulated(package: str, but: Collection[str] = ()) -> dict[str, str]:
    """For the class of each result of a simulation, the package's module for it. but: those that it has none for."""
    return {kind: f"{package}{module}" for module, kind in _SIMULATED.items() if module not in but}


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
