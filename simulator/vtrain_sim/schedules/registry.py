"""Schedules by name: those that come with vtrain, those that were registered, and those of other packages."""

from __future__ import annotations

from vtrain_sim.errors import SpecError, nearest
from vtrain_sim.extensions import Registry
from vtrain_sim.schedules.base import Schedule

ENTRY_POINTS = "vtrain.schedules"
_schedules: Registry[Schedule] = Registry(ENTRY_POINTS, "schedule")
register = _schedules.register
names = _schedules.names


def get(name: str) -> Schedule:
    """The schedule of a name; raises `SpecError` if there is none."""
    found = _schedules.find(name)
    if found is None:
        known = names()
        raise SpecError(f"--schedule is {name!r}{nearest(name, known)}: there are {', '.join(sorted(known))}")
    return found
