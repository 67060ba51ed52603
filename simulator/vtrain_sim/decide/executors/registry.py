"""Executors by name: those that come with vtrain, those that were registered, and those of other packages."""

from __future__ import annotations

from vtrain_sim.decide.executors.base import Executor
from vtrain_sim.extensions import Registry

ENTRY_POINTS = "vtrain.executors"
_executors: Registry[Executor] = Registry(ENTRY_POINTS, "executor", "--executor is {name}: it takes one of {names}")
register = _executors.register
names = _executors.names
get = _executors.get
