"""Executors by name: those that come with vtrain, those that were registered, and those of other packages."""

from __future__ import annotations

from vtrain_sim.decide.executors.base import Executor
from vtrain_sim.errors import UserError, nearest
from vtrain_sim.extensions import Registry

ENTRY_POINTS = "vtrain.executors"
_executors: Registry[Executor] = Registry(ENTRY_POINTS, "executor")
register = _executors.register
names = _executors.names


def get(name: str) -> Executor:
    """The executor of a name; raises `UserError` if there is none."""
    found = _executors.find(name)
    if found is None:
        raise UserError(f"--executor is {name!r}{nearest(name, names())}: it takes one of {', '.join(names())}")
    return found
