"""Schedules by name: those that come with vtrain, those that were registered, and those of other packages."""

from __future__ import annotations

from vtrain_sim.errors import SpecError
from vtrain_sim.extensions import Registry
from vtrain_sim.schedules.base import Schedule

ENTRY_POINTS = "vtrain.schedules"
_schedules: Registry[Schedule] = Registry(
    ENTRY_POINTS, "schedule", "--schedule is {name}: there are {sorted}", SpecError
)
register = _schedules.register
names = _schedules.names
get = _schedules.get
