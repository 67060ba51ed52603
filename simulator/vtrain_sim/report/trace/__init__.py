"""Timelines as traces: what any of them becomes, and the file that Perfetto opens."""

from vtrain_sim.report.trace.captured import captured_trace
from vtrain_sim.report.trace.chrome import chrome_json
from vtrain_sim.report.trace.parts import Trace
from vtrain_sim.report.trace.simulated import simulated_trace

__all__ = ["Trace", "captured_trace", "chrome_json", "simulated_trace"]
