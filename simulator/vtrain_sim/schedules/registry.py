"""Schedules by name: those that come with vtrain, those that were registered, and those of other packages."""

from __future__ import annotations

from vtrain_sim.errors import SpecError, nearest
from vtrain_sim.extensions import load_extensions
from vtrain_sim.schedules.base import Schedule

ENTRY_POINTS = "vtrain.schedules"
_schedules: dict[str, Schedule] = {}


def register(schedule: Schedule) -> Schedule:
    """Make a schedule known by its name; raises `ValueError` if the name is taken by another one."""
    if _schedules.setdefault(schedule.name, schedule) != schedule:
        raise ValueError(f"there is a schedule {schedule.name!r} already")
    return schedule


def get(name: str) -> Schedule:
    """The schedule of a name; raises `SpecError` if there is none."""
    if name not in _schedules:
        load_extensions(ENTRY_POINTS, register)
    if name not in _schedules:
        known = ", ".join(sorted(_schedules))
        raise SpecError(f"--schedule is {name!r}{nearest(name, _schedules)}: there are {known}")
    return _schedules[name]


def names() -> tuple[str, ...]:
    """Names of all schedules, other packages' included."""
    load_extensions(ENTRY_POINTS, register)
    return tuple(_schedules)
