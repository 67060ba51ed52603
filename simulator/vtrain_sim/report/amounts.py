"""Tokens, days and dollars in words: units that suit the size of the number, and what a price is from."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vtrain_sim.inputs import presets
from vtrain_sim.report.tables import billions, counted, duration

# Fewer days than this read better in hours.
_FEW_DAYS = 0.1
# Seconds of a unit, its name, and the least number of seconds of a column that is in it.
_UNITS = ((3600.0, "h", 2 * 3600.0), (1.0, "s", 0.1), (1e-3, "ms", 0.0))


def tokens(number: float) -> str:
    """A number of tokens: 15 tokens, 2.5 million tokens, 1,000 billion tokens."""
    if number < 1e6:
        return counted(round(number), "tokens")
    return f"{number / 1e6:.4g} million tokens" if number < 1e9 else f"{billions(number)} billion tokens"


def days(number: float) -> str:
    """A time in days; one that is no tenth of a day in hours or less."""
    return f"{number:,.2f} days" if number >= _FEW_DAYS else duration(number * 86400)


def day_figures(number: float) -> str:
    """Days for a column of days, without the unit: two digits after the point, more for what these would round off."""
    return f"{number:.2f}" if number >= _FEW_DAYS else f"{number:.2g}"


def dollars(number: float) -> str:
    """US dollars; cents only where there is little else."""
    if number >= 100 or not number:
        return f"${number:,.0f}"
    return f"${number:.2f}" if number >= 0.01 else "under $0.01"


def price(cluster: str, per_gpu_hour: float) -> str:
    """What a GPU-hour costs, and who says so; empty where nobody does. cluster: its name."""
    if not per_gpu_hour:
        return ""
    own = cluster in presets.names("clusters") and presets.cluster(cluster).price_per_gpu_hour == per_gpu_hour
    return f"${per_gpu_hour:g} per GPU-hour ({f'of the preset {cluster}' if own else 'as given'})"


def in_one_unit(seconds: Sequence[float | None]) -> list[str | None]:
    """The times of a column in the unit of the longest of them."""
    longest = max((value for value in seconds if value is not None and math.isfinite(value)), default=0.0)
    size, unit = next((size, unit) for size, unit, least in _UNITS if longest >= least)
    return [None if value is None else f"{value / size:,.{1 if size > 1 else 3}f} {unit}" for value in seconds]
