"""What a run recorded of itself, for people: dates instead of nanoseconds, GiB instead of bytes."""

from __future__ import annotations

from datetime import datetime, timezone

from vtrain_sim.report.tables import duration, gib
from vtrain_sim.results import Row


def configuration(run: Row) -> Row:
    """The columns of a run without units in their names, as their values say them."""
    return dict(_worded(name, value) for name, value in run.items())


def _worded(name: str, value: object) -> tuple[str, object]:
    if name == "created_ns" and isinstance(value, int):
        return "created", f"{datetime.fromtimestamp(value // 10**9, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    if name.endswith("_bytes") and isinstance(value, int):
        return name.removesuffix("_bytes"), gib(value)
    if name.endswith("_ns") and isinstance(value, list):
        return name.removesuffix("_ns"), ", ".join(duration(each / 1e9) for each in value if each is not None)
    if isinstance(value, list):
        return name, ", ".join(map(str, value))
    return name, value
