"""Draws a result with the function of its type."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vtrain_sim.errors import UserError
from vtrain_sim.report.dispatch import ByType
from vtrain_sim.results import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HERE = "vtrain_sim.report.plots."
# Each function takes the type of result that it is registered for.
pictures: ByType[Callable[[Any], Figure]] = ByType(
    {
        "vtrain_sim.simulate.result.Projection": _HERE + "projection",
        "vtrain_sim.simulate.spans.Timeline": _HERE + "timeline",
        "vtrain_sim.decide.sweep.SweepResult": _HERE + "sweep",
        "vtrain_sim.decide.plan.PlanResult": _HERE + "plan",
        "vtrain_sim.decide.fleet.result.FleetResult": _HERE + "fleet",
        "vtrain_sim.decide.sizing.size.SizeResult": _HERE + "size",
        "vtrain_sim.decide.study.StudyResult": _HERE + "study",
        "vtrain_sim.validate.result.ValidationResult": _HERE + "validation",
        "vtrain_sim.validate.comparison.Comparison": _HERE + "comparison",
        "vtrain_sim.validate.difference.Difference": _HERE + "difference",
        "vtrain_sim.decide.sensitivity.Sensitivity": _HERE + "sensitivity",
    }
)


def draw(result: Result) -> Figure:
    """The result as a matplotlib figure. Raises `UserError` where it has no picture or matplotlib is missing."""
    function = pictures.find(result)
    if function is None:
        raise UserError(f"there is no picture of a {type(result).__name__}: to_arrow() and rows() have its values")
    return function(result)
