"""One capture: warm-up, active steps, flush, close.

The states are: armed (only the schedule's two functions and the optimizer step are wrapped, to
count steps), recording (every hook is in), finished (nothing is left in the training process).
"""

from __future__ import annotations

import atexit
import os
import socket
import time
from typing import Any

from vtrain_plugin.capture.guard import Guard, report
from vtrain_plugin.capture.patches import Patches
from vtrain_plugin.capture.settings import Settings


class Session:
    """Drives a capture in one process. All methods are safe to call from training code."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # What the runs table says wrote the profile; `vtrain-profile rank` says "rank".
        self.source = "plugin"
        self.guard = Guard()
        self.guard.on_failure = self._abandon
        self.patches = Patches()
        self.finished = False
        self.steps_done = 0
        self.recorder: Any = None
        self._hooks: Any = None
        self._sink: Any = None
        self._kineto: Any = None
        self._pending: list[tuple[Any, Any]] = []
        self._manual = False
        self._last_end: Any = None
        self._attached = False
        self._prepared = False
        self._captured = 0
        self._run: dict[str, Any] = {}
        self.microbatches: Any = None

    # -- called by the hooks ---------------------------------------------------------------

    def attach(self, schedules: Any) -> None:
        """Wrap the schedule functions of Megatron-Core; called once the module is imported."""
        self.guard.run(self._attach, schedules)

    def step(self) -> None:
        """Mark the end of a training step by hand; optimizer steps no longer do."""
        self._manual = True
        self.guard.run(self._end_of_step)

    def on_optimizer_end(self) -> None:
        """The outermost optimizer step returned."""
        if not self._manual:
            self._end_of_step()

    def on_training_work(self) -> None:
        """Training work is about to begin: open the step if one is due."""
        if self.finished or self.recorder is None or self.recorder.recording:
            return
        if self._captured < self.settings.steps and self.steps_done >= self.settings.warmup:
            if self._kineto is not None:
                self._kineto.start_step(self.steps_done)
            self.microbatches.new_step()
            self.recorder.start_step(self.steps_done, self._last_end)

    def on_model(self, model: Any) -> None:
        """A model chunk is about to run forward: hook it, one step before recording begins."""
        if not self._prepared and self.steps_done >= self.settings.warmup - 1:
            self._prepare()
        if self._hooks is not None:
            self._hooks.on_model(model)

    def close(self) -> None:
        """Write what is held and remove every hook. Idempotent."""
        if self.finished:
            return
        self.guard.run(self._close)
        self._remove_hooks()

    def hooks_innermost(self) -> Any:
        """The backward span under way that communication belongs to, if any."""
        return self._hooks.modules.innermost() if self._hooks is not None else None

    def hooks_describe_microbatch(self, span: Any) -> None:
        """Say what the rest of a microbatch's span is an operator of; end stray backward spans."""
        if self._hooks is None:
            return
        from vtrain_schemas.operators import Operator

        tokens = self._hooks.context.tokens
        if self.settings.operators and tokens:
            span.operator = Operator("microbatch", span.phase, tokens)
        if span.phase == "forward" and span.chunk == 0:
            self.recorder.record.tokens += tokens

    def hooks_finish_backward(self) -> None:
        """A microbatch's backward pass is over."""
        if self._hooks is not None:
            self._hooks.modules.finish_backward()

    # -- the work --------------------------------------------------------------------------

    def _attach(self, schedules: Any) -> None:
        if self._attached:
            return
        self._attached = True
        from vtrain_plugin.adapters.megatron import schedule

        schedule.install(self, schedules)
        atexit.register(self.close)

    def _prepare(self) -> None:
        """Install every hook and decide on clock and output; once, at the end of the warm-up."""
        self._prepared = True
        from vtrain_plugin.adapters.megatron import metadata
        from vtrain_plugin.adapters.megatron.hooks import Hooks
        from vtrain_plugin.capture.clock import choose_clock
        from vtrain_plugin.capture.ranges import choose_ranges
        from vtrain_plugin.capture.recorder import Recorder
        from vtrain_plugin.capture.sink import Sink

        clock = choose_clock()
        ranges = choose_ranges(self.settings.nvtx)
        self.recorder = Recorder(clock, ranges, self.settings.max_rows)
        run_id = self.settings.run_id or metadata.agree_on_run_id()
        self._sink = Sink(self.settings.out, run_id, metadata.rank())
        self._hooks = Hooks(self)
        self._hooks.install()
        if self.settings.kernels:
            from vtrain_plugin.capture.kineto import KinetoCapture

            self._kineto = KinetoCapture()

    def _end_of_step(self) -> None:
        if self.finished:
            return
        self.steps_done += 1
        recorder = self.recorder
        if recorder is None:
            return
        if recorder.recording:
            from vtrain_plugin.adapters.megatron import metadata

            recorder.record.memory = metadata.peak_memory()
            record = recorder.end_step()
            token = recorder.clock.seal_step()
            if self._kineto is not None:
                self._kineto.end_step()
            self._pending.append((record, token))
            self._captured += 1
            # The end mark is the next step's "previous end" only on a clock that outlives a step.
            self._last_end = record.root.end if recorder.clock.source == "host" else None
            self._flush(wait=False)
            if self._captured >= self.settings.steps:
                self.close()
        elif recorder.clock.source == "host":
            self._last_end = recorder.clock.now()

    def _flush(self, wait: bool) -> None:
        """Write the steps whose marks are known; with `wait`, all of them."""
        from vtrain_plugin.adapters.megatron import metadata
        from vtrain_plugin.capture.rows import rows_of_step

        while self._pending:
            record, token = self._pending[0]
            clock = self.recorder.clock
            if not wait and not clock.ready(token):
                return
            self._pending.pop(0)
            rows = rows_of_step(record, clock.resolver(token), self._sink.run_id, self._sink.rank, metadata.nodes_of)
            if not self._run:
                self._run = self._describe_run(record)
            for table, table_rows in rows.items():
                self._sink.write(table, table_rows)

    def _describe_run(self, record: Any) -> dict[str, Any]:
        """Write the run and rank rows with the first step, so that a killed job has them too."""
        from vtrain_plugin.adapters.megatron import metadata

        context = self._hooks.context
        run = metadata.run_row(context, self._sink.run_id, self.settings, self.recorder.clock.source)
        run["source"] = self.source
        run["num_microbatches"] = record.microbatches or run.get("num_microbatches")
        metadata.complete_batch(run)
        self._sink.write("ranks", [metadata.rank_row(context, self._sink.run_id, self.recorder.dropped)])
        if self._sink.rank == 0 or self.source == "rank":
            self._sink.write("runs", [run])
        return run

    def _close(self) -> None:
        recorder = self.recorder
        if recorder is None:
            if self._attached and self.steps_done:
                report(
                    f"nothing captured: training ended after {self.steps_done} steps, before the "
                    f"{self.settings.warmup} warm-up steps were over"
                )
            return
        if recorder.recording:
            # Training ended inside a step (an exception, a signal): the step is not whole.
            recorder.end_step()
        self._remove_hooks()
        self._flush(wait=True)
        if self._kineto is not None and self._sink is not None:
            for table, rows in self._kineto.rows(self._sink.run_id, self._sink.rank).items():
                self._sink.write(table, rows)
        if recorder.dropped:
            report(
                f"{recorder.dropped} rows were dropped: the bound of {self.settings.max_rows} rows a step was reached"
            )
        if self._captured and self._sink.rank == 0:
            report(f"captured {self._captured} steps to {self.settings.out}/run_id={self._sink.run_id}")

    def _remove_hooks(self) -> None:
        self.finished = True
        self.patches.remove()
        if self._hooks is not None:
            self._hooks.remove()

    def _abandon(self) -> None:
        """After a failure: nothing of ours stays in training."""
        self._remove_hooks()
        if self._kineto is not None:
            self._kineto.abandon()
        self._pending = []


def host_name() -> str:
    """The name under which this host appears in the profile."""
    return os.environ.get("VTRAIN_HOST") or socket.gethostname()


def new_run_id() -> str:
    """A run id from the time of day, readable and sortable."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + f"-{os.getpid():x}"
