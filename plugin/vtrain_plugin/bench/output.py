"""How microbenchmarks write their rows: the same tables as a capture."""

from __future__ import annotations

import os
from typing import Any

from vtrain_plugin.adapters.megatron import metadata
from vtrain_plugin.capture.sink import Sink


class BenchOutput:
    """Collects rows of one rank and writes them at the end."""

    def __init__(self, out: str, run_id: str, source: str, clock_source: str) -> None:
        self.run_id = run_id
        self.rank = metadata.rank()
        self.source = source
        self.clock_source = clock_source
        self._sink = Sink(out, run_id, self.rank)
        self._rows: dict[str, list[dict[str, Any]]] = {"operators": [], "collectives": []}

    def add(self, table: str, row: dict[str, Any]) -> None:
        """Add one row; run, rank and step are filled in."""
        self._rows[table].append({"run_id": self.run_id, "rank": self.rank, "step": 0, **row})

    def write(self, **run_columns: Any) -> None:
        """Write everything: rows, this rank, and (on rank 0) the run."""
        for table, rows in self._rows.items():
            self._sink.write(table, rows)
        from vtrain_plugin.capture.session import host_name

        coordinates = dict.fromkeys(("tp_rank", "pp_rank", "dp_rank", "cp_rank", "ep_rank"), 0)
        self._sink.write(
            "ranks",
            [
                {
                    "run_id": self.run_id,
                    "rank": self.rank,
                    "host": host_name(),
                    "local_rank": int(os.environ.get("LOCAL_RANK", "0") or 0),
                    **coordinates,
                    "device_name": metadata.device_name(),
                }
            ],
        )
        if self.rank == 0:
            self._sink.write(
                "runs",
                [
                    {
                        "run_id": self.run_id,
                        "source": self.source,
                        "clock_source": self.clock_source,
                        "warmup_steps": 0,
                        "active_steps": 1,
                        "config_json": "{}",
                        "hosts": [host_name()],
                        **metadata.environment_columns(),
                        **run_columns,
                    }
                ],
            )
