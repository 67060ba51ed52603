"""What one rank writes: the steps as their marks become known, and the run and rank rows with the first."""

from __future__ import annotations

from vtrain_plugin.capture import rows
from vtrain_plugin.capture.clock import SealedStep
from vtrain_plugin.capture.framework import Framework
from vtrain_plugin.capture.process import nodes_of
from vtrain_plugin.capture.recorder import Recorder, StepRecord
from vtrain_plugin.capture.run_rows import complete_batch, environment_columns, rank_row
from vtrain_plugin.capture.settings import Settings
from vtrain_plugin.capture.sink import Sink


class Output:
    """Holds the steps whose marks the device has not passed yet; writes the others.

    source: the word for it in `runs.source`.
    """

    def __init__(self, sink: Sink, recorder: Recorder, framework: Framework, settings: Settings, source: str) -> None:
        self.sink = sink
        self._recorder = recorder
        self._framework = framework
        self._settings = settings
        self._source = source
        self._pending: list[tuple[StepRecord, SealedStep]] = []
        self._described = False

    def add(self, record: StepRecord, sealed: SealedStep) -> None:
        """A step is over."""
        self._pending.append((record, sealed))

    def flush(self, wait: bool) -> None:
        """Write the steps whose marks are known; with `wait`, all of them. Raises OSError where the disk refuses."""
        while self._pending:
            record, sealed = self._pending[0]
            if not wait and not sealed.ready():
                return
            self._pending.pop(0)
            step = rows.rows_of_step(record, sealed.resolver(), self.sink.run_id, self.sink.rank, nodes_of)
            if not self._described:
                self._describe(record)
                self._described = True
            self.write(step)

    def write(self, tables: rows.Rows) -> None:
        """Write rows of several tables."""
        for table, table_rows in tables.items():
            self.sink.write(table, table_rows)

    def drop(self) -> None:
        """Forget what is not written."""
        self._pending = []

    def _describe(self, record: StepRecord) -> None:
        """Write the run and rank rows with the first step, so that a killed job has them too."""
        run_id = self.sink.run_id
        run = {
            "run_id": run_id,
            "source": self._source,
            "warmup_steps": self._settings.warmup,
            "active_steps": self._settings.steps,
            "clock_source": self._recorder.clock.source,
            **environment_columns(),
            **self._framework.describe_run(),
        }
        run["num_microbatches"] = record.microbatches or run.get("num_microbatches")
        complete_batch(run)
        rank = {**rank_row(run_id), "dropped_rows": self._recorder.dropped, **self._framework.describe_rank()}
        self.sink.write("ranks", [rank])
        # A played rank is alone in its world, whatever its number.
        if self.sink.rank == 0 or self._source == "rank":
            self.sink.write("runs", [run])
