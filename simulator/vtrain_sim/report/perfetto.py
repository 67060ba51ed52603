"""Timelines as Chrome trace events, which Perfetto (ui.perfetto.dev) and chrome://tracing open."""

from __future__ import annotations

from vtrain_sim.catalog.timeline import CapturedTimeline
from vtrain_sim.errors import UserError
from vtrain_sim.report.trace import Trace, captured_trace, chrome_json, simulated_trace
from vtrain_sim.results import Result
from vtrain_sim.simulate.spans import Timeline


class PerfettoRenderer:
    """A timeline, simulated or captured, as a JSON trace."""

    name = "perfetto"

    def render(self, result: Result) -> str:
        """The trace. Raises `UserError` for a result that is no timeline."""
        return chrome_json(trace_of(result))


def trace_of(result: Result) -> Trace:
    """The trace of a timeline. Raises `UserError` for a result that is none."""
    if isinstance(result, Timeline):
        return simulated_trace(result)
    if isinstance(result, CapturedTimeline):
        return captured_trace(result)
    raise UserError(f"a {type(result).__name__} has no timeline to draw: vtrain-sim timeline makes one")
