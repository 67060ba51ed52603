"""Reading a trace made in memory into rows of the tables."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa

from simulator.ingest.build import Kineto
from vtrain_sim.ingest.kineto import record_kineto
from vtrain_sim.ingest.tables import tables_of
from vtrain_sim.ingest.trace import Trace

Rows = list[dict[str, Any]]


def ingest(trace: Kineto | str, rank: int | None = None) -> tuple[dict[str, Rows], Trace]:
    text = trace if isinstance(trace, str) else trace.text()
    read = record_kineto(io.BytesIO(text.encode()), "trace", rank)
    tables: dict[str, pa.Table] = dict(tables_of(read, "run"))
    return {name: table.to_pylist() for name, table in tables.items()}, read.head


def notes(tables: dict[str, Rows], outcome: str) -> dict[str, int]:
    return {n["reason"]: n["count"] for n in tables["ingest"] if n["outcome"] == outcome}
