"""One capture: warm-up, active steps, flush, close.

The states are: armed (only what counts steps is wrapped: see `Framework.install`), recording (every hook
is in), finished (nothing is left in the training process).
"""

from __future__ import annotations

import atexit
from typing import TYPE_CHECKING

from vtrain_plugin.capture.guard import Guard, report
from vtrain_plugin.capture.patches import Patches
from vtrain_plugin.capture.process import agree_on_run_id, rank
from vtrain_plugin.capture.recorder import Position, Recorder, Span
from vtrain_plugin.capture.settings import Settings

if TYPE_CHECKING:
    import torch

    from vtrain_plugin.capture.clock import Mark
    from vtrain_plugin.capture.framework import Framework
    from vtrain_plugin.capture.kineto import KinetoCapture
    from vtrain_plugin.capture.modules import ModuleHooks
    from vtrain_plugin.capture.output import Output


class Session:
    """Drives a capture in one process. All methods are safe to call from training code.

    source: what the runs table says wrote the profile; `vtrain-profile rank` says "rank".
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.source = "plugin"
        self.guard = Guard()
        self.guard.on_error = self._abandon
        self.patches = Patches()
        self.position = Position()
        self.finished = False
        self.steps_done = 0
        self.recorder: Recorder | None = None
        self.modules: ModuleHooks | None = None
        self._framework: Framework | None = None
        self._output: Output | None = None
        self._kineto: KinetoCapture | None = None
        self._models: set[int] = set()
        self._manual = False
        self._last_end: Mark | None = None
        self._prepared = False
        self._captured = 0

    # -- called by the framework's hooks ---------------------------------------------------

    def attach(self, framework: Framework) -> None:
        """Begin to count the steps of a framework; called once it is imported. Later calls change nothing."""
        self.guard.run(self._attach, framework)

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
        recorder = self.recorder
        if self.finished or recorder is None or recorder.recording:
            return
        if self._captured < self.settings.steps and self.steps_done >= self.settings.warmup:
            if self._kineto is not None:
                self._kineto.start_step(self.steps_done)
            assert self._framework is not None
            self._framework.start_step()
            recorder.start_step(self.steps_done, self._last_end)

    def on_model(self, model: torch.nn.Module) -> None:
        """A model chunk is about to run forward: hook it, one step before recording begins."""
        if not self._prepared and self.steps_done >= self.settings.warmup - 1:
            self._prepare()
        if self.modules is None or id(model) in self._models:
            return
        assert self._framework is not None
        self._models.add(id(model))
        self._framework.on_model(model, self.modules.install(model))

    def recording(self) -> Recorder | None:
        """The recorder while a step is recorded, None at other times."""
        recorder = self.recorder
        return recorder if recorder is not None and recorder.record is not None else None

    def open_span(self, name: str, kind: str, parent: Span | None = None) -> Span | None:
        """Open a span that belongs to no microbatch; None while nothing is recorded."""
        recorder = self.recording()
        if recorder is None:
            return None
        span = recorder.new_span(name, kind, "update", parent=parent)
        recorder.open(span)
        return span

    def close_span(self, span: Span | None) -> None:
        """Close a span and all that is still open inside it."""
        if span is not None and self.recorder is not None:
            self.recorder.close(span)

    def backward_span(self) -> Span | None:
        """The backward span under way that communication belongs to, if any."""
        return self.modules.innermost() if self.modules is not None else None

    def close(self) -> None:
        """Write what is recorded and remove every hook. Idempotent."""
        if self.finished:
            return
        self.guard.run(self._close)
        self._remove_hooks()

    # -- the work --------------------------------------------------------------------------

    def _attach(self, framework: Framework) -> None:
        if self._framework is not None:
            return
        self._framework = framework
        self.patches.packages += framework.packages
        framework.install(self)
        atexit.register(self.close)

    def _prepare(self) -> None:
        """Install every hook and decide on clock and output; once, at the end of the warm-up."""
        self._prepared = True
        from vtrain_plugin.capture import collectives
        from vtrain_plugin.capture.clock import choose_clock
        from vtrain_plugin.capture.modules import ModuleHooks
        from vtrain_plugin.capture.output import Output
        from vtrain_plugin.capture.ranges import choose_ranges
        from vtrain_plugin.capture.sink import Sink

        settings, framework = self.settings, self._framework
        assert framework is not None
        recorder = Recorder(choose_clock(), choose_ranges(settings.nvtx), settings.max_rows)
        sink = Sink(settings.out, settings.run_id or agree_on_run_id(), rank())
        self._output = Output(sink, recorder, framework, settings, self.source)
        self.modules = ModuleHooks(self, framework)
        self.recorder = recorder
        collectives.install(self, framework)
        framework.install_recording(self)
        if settings.kernels:
            from vtrain_plugin.capture.kineto import KinetoCapture

            self._kineto = KinetoCapture()

    def _end_of_step(self) -> None:
        if self.finished:
            return
        self.steps_done += 1
        recorder = self.recorder
        if recorder is None:
            return
        if recorder.record is not None:
            self._end_recorded_step(recorder)
        elif recorder.clock.marks_outlive_step:
            self._last_end = recorder.clock.now()

    def _end_recorded_step(self, recorder: Recorder) -> None:
        from vtrain_plugin.capture.device import peak_memory

        assert self._output is not None
        memory = peak_memory()
        record = recorder.end_step()
        record.memory = memory
        sealed = recorder.clock.seal_step()
        if self._kineto is not None:
            self._kineto.end_step()
        self._output.add(record, sealed)
        self._captured += 1
        self._last_end = record.root.end if recorder.clock.marks_outlive_step else None
        self._output.flush(wait=False)
        if self._captured >= self.settings.steps:
            self.close()

    def _close(self) -> None:
        recorder, output = self.recorder, self._output
        if recorder is None or output is None:
            if self._framework is not None and self.steps_done:
                report(
                    f"nothing captured: training ended after {self.steps_done} steps, before the "
                    f"{self.settings.warmup} warm-up steps were over"
                )
            return
        if recorder.recording:
            # Training ended inside a step (an exception, a signal): the step is not whole.
            recorder.end_step()
        self._remove_hooks()
        output.flush(wait=True)
        if self._kineto is not None:
            output.write(self._kineto.rows(output.sink.run_id, output.sink.rank))
        if recorder.dropped:
            report(
                f"{recorder.dropped} rows were dropped: the bound of {self.settings.max_rows} rows per step was reached"
            )
        if self._captured and output.sink.rank == 0:
            report(f"captured {self._captured} steps to {self.settings.out}/run_id={output.sink.run_id}")

    def _remove_hooks(self) -> None:
        self.finished = True
        self.patches.remove()
        if self.modules is not None:
            self.modules.remove()
        if self._framework is not None:
            self._framework.remove()

    def _abandon(self) -> None:
        """After a failure: nothing of ours stays in training."""
        self._remove_hooks()
        if self._kineto is not None:
            self._kineto.abandon()
        if self._output is not None:
            self._output.drop()
