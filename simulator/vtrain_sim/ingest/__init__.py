"""Imported traces: torch.profiler's (Kineto) Chrome traces and Nsight Systems' SQLite exports as profiles.

`ingest` reads them and writes the tables that vtrain's own plugin writes, so that everything that works
on a profile works on them. Reading knows nothing of what is derived: `kineto` and `nsys` make a `Trace`,
`recording` cuts a long one into windows of time, `structure`, `shapes` and `collectives` say what belongs to what,
`tables` writes it down.
"""

from vtrain_sim.ingest.captured import ingest_captured
from vtrain_sim.ingest.profiles import ingest
from vtrain_sim.ingest.reports import Ingested, RunReport
from vtrain_sim.ingest.sources import is_trace

__all__ = ["Ingested", "RunReport", "ingest", "ingest_captured", "is_trace"]
