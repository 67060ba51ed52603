"""What one rank writes: the steps as their marks become known, and the run and rank rows with the first.

A thread writes, once the capture is over, so that rows and files cost the recorded steps nothing. It pauses often:
torch lets go of Python's lock at every operator, and waits for it as long as the thread keeps it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from vtrain_plugin.capture import rows
from vtrain_plugin.capture.clock import SealedStep, StepTimes
from vtrain_plugin.capture.framework import Framework
from vtrain_plugin.capture.guard import Guard, report
from vtrain_plugin.capture.process import nodes_of
from vtrain_plugin.capture.process import rank as rank_of_process
from vtrain_plugin.capture.recorder import Recorder, StepRecord
from vtrain_plugin.capture.run_id import CaptureId
from vtrain_plugin.capture.run_rows import complete_batch, environment_columns, rank_row
from vtrain_plugin.capture.settings import Settings
from vtrain_plugin.capture.sink import Sink, claim_run_id

# How long the thread waits for the device to pass the last marks, and for the run's name.
PATIENCE_S = 10.0
# How long whoever waits for the thread bears that it writes nothing: a disk may hang.
DISK_PATIENCE_S = 30.0
# A long capture is written while it goes on: where so many rows, or a step that began so long ago, are in memory.
MANY_ROWS = 100_000
LONG_S = 10.0
# Rows made without a pause, and the pause.
_ROWS_AT_ONCE = 16
_PAUSE_S = 0.001


class Output:
    """Keeps the steps that are over, and writes them.

    source: the word for it in `runs.source`. plain_ns: see `plain_steps`. rank: of this process, which may have left
    its process group when it writes. traces: writes what there is beside the rows, after them. last: called once all is
    written. written: set when nothing is left to do.
    """

    def __init__(
        self,
        capture: CaptureId,
        recorder: Recorder,
        framework: Framework,
        settings: Settings,
        source: str,
        plain_ns: list[int],
        guard: Guard,
        traces: Callable[[], None],
        last: Callable[[], None],
    ) -> None:
        self.rank = rank_of_process()
        self.written = threading.Event()
        self._capture = capture
        self._sink: Sink | None = None
        self._recorder = recorder
        self._framework = framework
        self._settings = settings
        self._source = source
        self._plain_ns = plain_ns
        self._guard = guard
        self._traces = traces
        self._last = last
        self._dropped = False
        self._pending: list[tuple[StepRecord, SealedStep]] = []
        self._known: list[tuple[StepRecord, StepTimes]] = []
        # When the oldest pending step began, or the last time that some were written.
        self._oldest_s = time.monotonic()
        self._description: dict[str, list[rows.Row]] | None = None
        self._thread: threading.Thread | None = None
        self._due = threading.Event()
        self._ended = False
        # Of rows and files: what it does not change, hangs.
        self._progress = 0
        self._process = os.getpid()
        # Set where somebody waits for the thread: it pauses no more.
        self._hurry = threading.Event()

    # -- in the training thread ------------------------------------------------------------

    def add(self, record: StepRecord, sealed: SealedStep) -> None:
        """A step is over. The first one also says what the run is, while model and process groups are there."""
        if self._description is None:
            self._description = self._describe(record)
        self._pending.append((record, sealed))
        self._write_due()

    def begin_step(self) -> None:
        """A step is about to be recorded. Here the device has often passed the last one, at whose end it was behind."""
        self._write_due()
        if not self._pending:
            self._oldest_s = time.monotonic()

    def _write_due(self) -> None:
        """Have written what the device has passed, where it is much, or began long ago."""
        kept = sum(len(step.spans) + len(step.calls) for step, _ in self._pending)
        if kept >= MANY_ROWS or (self._pending and time.monotonic() - self._oldest_s >= LONG_S):
            self._settle()
            if self._known:
                self._oldest_s = time.monotonic()
                self._write_soon()

    def end(self) -> bool:
        """There are no further steps: have the rest written. False while the device has not passed the last marks."""
        if not self._ended:
            self._settle()
            if self._pending:
                return False
            self._ended = True
            self._write_soon()
        return True

    def finish(self) -> None:
        """The same, and wait until it is done: for the device `PATIENCE_S` at most, and for no disk that hangs."""
        if self._process != os.getpid():
            # A child has the steps of its parent, and not the thread.
            return
        deadline = time.monotonic() + PATIENCE_S
        while not self.end():
            if time.monotonic() >= deadline:
                report(f"{len(self._pending)} captured steps are lost: the device has not finished them")
                self._pending = []
            time.sleep(0.001)
        self._hurry.set()
        seen = -1
        while not self.written.wait(DISK_PATIENCE_S):
            if seen == self._progress:
                report(
                    f"nothing was written to {self._settings.out} for {DISK_PATIENCE_S:g} s: the capture is not whole"
                )
                return
            seen = self._progress

    @property
    def writes_here(self) -> bool:
        """Whether this is the thread that writes."""
        return threading.current_thread() is self._thread

    def drop(self) -> None:
        """Forget what is not written."""
        self._pending, self._known = [], []
        self._dropped = self._ended = True
        self._due.set()
        if self._thread is None:
            self.written.set()

    def _settle(self) -> None:
        """Look up the times of the steps that the device has passed.

        Not in the thread: what it asked a GPU would break a CUDA graph that is captured meanwhile.
        """
        while self._pending and self._pending[0][1].ready():
            record, sealed = self._pending.pop(0)
            self._known.append((record, sealed.times()))

    def _write_soon(self) -> None:
        if self._due.is_set():
            # The thread has not even begun with what was there before.
            self._hurry.set()
        self._due.set()
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name="vtrain-output", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The process ends, and starts no threads any more (Python 3.12).
            self._hurry.set()
            if self._ended:
                self._run()
        else:
            self._thread = thread

    def sink(self) -> Sink:
        """Where the rows go. Waits for the run's name, for `PATIENCE_S` at most."""
        if self._sink is None:
            capture = self._capture.value(PATIENCE_S)
            wanted = self._settings.run_id or capture
            run_id = claim_run_id(self._settings.out, wanted, capture)
            if run_id != wanted:
                report(f"run {wanted!r} is there already, from an earlier capture: this one is {run_id!r}")
            self._sink = Sink(self._settings.out, run_id, self.rank, self._pause)
        return self._sink

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
        rank = {**rank_row(""), **self._framework.describe_rank()}
        # By every rank: none knows which of the others come this far. A reader takes the lowest one's.
        return {"ranks": [rank], "runs": [run]}

    # -- in the thread ---------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._guard.run(self._write_all)
        finally:
            self.written.set()

    def _write_all(self) -> None:
        ended = False
        while not ended:
            self._due.wait()
            self._due.clear()
            # Read before the steps: what comes later sets `due` again.
            ended = self._ended
            self._write_known(more=not ended)
        if self._dropped:
            return
        self._traces()
        self._merge()
        self._last()

    def _write_known(self, more: bool) -> None:
        """Write the steps that are there, as one part of each table. more: others may follow."""
        steps, self._known = self._known, []
        tables: rows.Rows = {}
        for record, times in steps:
            run_id = self.sink().run_id
            for number, (table, row) in enumerate(
                rows.rows_of_step(record, times, run_id, self.rank, nodes_of, self._pause)
            ):
                tables.setdefault(table, []).append(row)
                if number % _ROWS_AT_ONCE == 0:
                    self._pause()
        if tables:
            self._write(tables, more)

    def _write(self, tables: rows.Rows, more: bool) -> None:
        """Write rows of several tables; with the first ones, what the run is: a killed job has it too."""
        sink = self.sink()
        if self._description:
            known = {"run_id": sink.run_id, "dropped_rows": self._recorder.dropped}
            for table, described in self._description.items():
                sink.write(table, [{**row, **known} for row in described])
            self._description = {}
        for table, table_rows in tables.items():
            sink.write(table, table_rows, more)
            self._progress += 1

    def _merge(self) -> None:
        """Make one file of a table's parts. Nothing needs it: where that fails, the parts stay."""
        if self._sink is None:
            return
        try:
            self._sink.merge()
        except Exception as error:
            report(
                f"run {self._sink.run_id!r}: its files could not be merged into one per table "
                f"({type(error).__name__}: {error}); they hold all that was captured"
            )

    def _pause(self) -> None:
        """Let training have Python's lock."""
        self._progress += 1
        self._hurry.wait(_PAUSE_S)
