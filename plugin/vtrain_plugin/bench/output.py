"""How microbenchmarks write their rows: the same tables as a capture."""

from __future__ import annotations

from vtrain_plugin.capture.process import rank
from vtrain_plugin.capture.rows import Row, Rows
from vtrain_plugin.capture.run_rows import distribution_version, environment_columns, rank_row
from vtrain_plugin.capture.sink import Sink


class BenchOutput:
    """Collects rows of one rank and writes them at the end."""

    def __init__(self, out: str, run_id: str, source: str, clock_source: str) -> None:
        self.run_id = run_id
        self.rank = rank()
        self.source = source
        self.clock_source = clock_source
        self._sink = Sink(out, run_id, self.rank)
        self._rows: Rows = {"operators": [], "collectives": []}

    def add(self, table: str, row: Row) -> None:
        """Add one row; run, rank and step are filled in."""
        self._rows[table].append({"run_id": self.run_id, "rank": self.rank, "step": 0, **row})

    def write(self, run_columns: Row | None = None) -> None:
        """Write everything: rows, this rank, and (on rank 0) the run."""
        for table, rows in self._rows.items():
            self._sink.write(table, rows)
        self._sink.write("ranks", [rank_row(self.run_id)])
        if self.rank == 0:
            self._sink.write("runs", [self._run_row(run_columns or {})])

    def _run_row(self, run_columns: Row) -> Row:
        return {
            "run_id": self.run_id,
            "source": self.source,
            "clock_source": self.clock_source,
            "warmup_steps": 0,
            "active_steps": 1,
            "megatron_core_version": distribution_version("megatron-core"),
            **environment_columns(),
            **run_columns,
        }
