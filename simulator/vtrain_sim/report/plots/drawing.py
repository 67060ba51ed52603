"""Draws a result with the function of its type."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vtrain_sim.errors import UserError
from vtrain_sim.report.dispatch import ByType, simulated
from vtrain_sim.results import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HERE = "vtrain_sim.report.plots."
# Each function takes the type of result that it is registered for.
pictures: ByType[Callable[[Any], Figure]] = ByType(simulated(_HERE))


def draw(result: Result) -> Figure:
    """The result as a matplotlib figure. Raises `UserError` where it has no picture or matplotlib is missing."""
    function = pictures.find(result)
    if function is None:
        raise UserError(f"there is no picture of a {type(result).__name__}: to_arrow() and rows() have its values")
    return function(result)
