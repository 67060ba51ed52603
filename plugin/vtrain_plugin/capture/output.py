"""What one rank writes: the steps as their marks become known, and the run and rank rows with the first."""

from __future__ import annotations

import time

from vtrain_plugin.capture import rows
from vtrain_plugin.capture.clock import SealedStep
from vtrain_plugin.capture.framework import Framework
from vtrain_plugin.capture.guard import report
from vtrain_plugin.capture.process import nodes_of
from vtrain_plugin.capture.process import rank as rank_of_process
from vtrain_plugin.capture.recorder import Recorder, StepRecord
from vtrain_plugin.capture.run_id import CaptureId
from vtrain_plugin.capture.run_rows import complete_batch, environment_columns, rank_row
from vtrain_plugin.capture.settings import Settings
from vtrain_plugin.capture.sink import Sink, claim_run_id

# How long the end of a capture may wait for the device to pass the last marks, and for the run's name.
PATIENCE_S = 10.0


class Output:
    """Holds the steps whose marks the device has not passed yet; writes the others.

    source: the word for it in `runs.source`. plain_ns: see `plain_steps`. rank: of this process, which may have left
    its process group when it writes.
    """

    def __init__(
        self,
        capture: CaptureId,
        recorder: Recorder,
        framework: Framework,
        settings: Settings,
        source: str,
        plain_ns: list[int],
    ) -> None:
        self.rank = rank_of_process()
        self._capture = capture
        self._sink: Sink | None = None
        self._recorder = recorder
        self._framework = framework
        self._settings = settings
        self._source = source
        self._plain_ns = plain_ns
        self._pending: list[tuple[StepRecord, SealedStep]] = []
        self._description: dict[str, list[rows.Row]] | None = None

    @property
    def named(self) -> bool:
        """Whether the run's name is known."""
        return self._capture.known()

    @property
    def pending(self) -> bool:
        """Whether a step is not written yet."""
        return bool(self._pending)

    def add(self, record: StepRecord, sealed: SealedStep) -> None:
        """A step is over. The first one also says what the run is, while model and process groups are there."""
        self._pending.append((record, sealed))
        if self._description is None:
            self._description = self._describe(record)

    def flush(self) -> None:
        """Write the steps whose marks are known. Never waits. Raises OSError where the disk refuses."""
        if not self.named:
            return
        while self._pending and self._pending[0][1].ready():
            self._write_step(*self._pending.pop(0))

    def finish(self) -> None:
        """Write every step; waits for `PATIENCE_S` at most, then says how many are lost."""
        deadline = time.monotonic() + PATIENCE_S
        while self._pending:
            record, sealed = self._pending.pop(0)
            while not sealed.ready():
                if time.monotonic() >= deadline:
                    report(f"{len(self._pending) + 1} captured steps are lost: the device has not finished them")
                    self._pending = []
                    return
                time.sleep(0.001)
            self._write_step(record, sealed)

    def write(self, tables: rows.Rows) -> None:
        """Write rows of several tables."""
        sink = self.sink()
        for table, table_rows in tables.items():
            sink.write(table, table_rows)

    def drop(self) -> None:
        """Forget what is not written."""
        self._pending = []

    def sink(self) -> Sink:
        """Where the rows go. Waits for the run's name, for `PATIENCE_S` at most, where it is not known yet."""
        if self._sink is None:
            capture = self._capture.value(PATIENCE_S)
            wanted = self._settings.run_id or capture
            run_id = claim_run_id(self._settings.out, wanted, capture)
            if run_id != wanted:
                report(f"run {wanted!r} is there already, from an earlier capture: this one is {run_id!r}")
            self._sink = Sink(self._settings.out, run_id, self.rank)
        return self._sink

    def _write_step(self, record: StepRecord, sealed: SealedStep) -> None:
        run_id = self.sink().run_id
        step = rows.rows_of_step(record, sealed.resolver(), run_id, self.rank, nodes_of)
        if self._description:
            # With the first step, so that a killed job has them too.
            self.write({table: [{**row, "run_id": run_id} for row in of] for table, of in self._description.items()})
            self._description = {}
        self.write(step)

    def _describe(self, record: StepRecord) -> dict[str, list[rows.Row]]:
        """Rows of the runs and ranks tables, without the run id."""
        run = {
            "source": self._source,
            "warmup_steps": self._settings.warmup,
            "active_steps": self._settings.steps,
            "chosen_ranks": self._settings.ranks or None,
            "plain_interval_ns": self._plain_ns,
            "clock_source": self._recorder.clock.source,
            **environment_columns(),
            **self._framework.describe_run(),
        }
        run["num_microbatches"] = record.microbatches or run.get("num_microbatches")
        complete_batch(run)
        rank = {**rank_row(""), "dropped_rows": self._recorder.dropped, **self._framework.describe_rank()}
        # By every rank: none knows which of the others come this far. A reader takes the lowest one's.
        return {"ranks": [rank], "runs": [run]}
