"""One capture: warm-up, active steps, flush, close.

The states are: armed (only what counts steps is wrapped: see `Framework.install`), recording (every hook
is in), finished (hooks do nothing, and are taken out at once or, inside a step, when it is over).
"""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from typing import TYPE_CHECKING

from vtrain_plugin.capture.device import graph_is_captured
from vtrain_plugin.capture.guard import Guard, report
from vtrain_plugin.capture.idle import torch_is_idle
from vtrain_plugin.capture.patches import Patches
from vtrain_plugin.capture.process import local_rank
from vtrain_plugin.capture.recorder import Position, Recorder, Span
from vtrain_plugin.capture.run_id import next_capture
from vtrain_plugin.capture.settings import Settings

if TYPE_CHECKING:
    import torch

    from vtrain_plugin.capture.clock import Mark
    from vtrain_plugin.capture.framework import Framework
    from vtrain_plugin.capture.kineto import KinetoCapture
    from vtrain_plugin.capture.modules import ModuleHooks
    from vtrain_plugin.capture.output import Output
    from vtrain_plugin.capture.profiler_watch import ProfilerWatch


class Session:
    """Drives a capture in one process. All methods are safe to call from training code.

    source: what the runs table says wrote the profile; `vtrain-profile rank` says "rank". finished: no hook
    does anything any more. pinned: contexts under way that compare functions with those they began with.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.source = "plugin"
        self._number = next_capture()
        self.guard = Guard()
        self.guard.on_error = self._abandon
        self.patches = Patches()
        self.position = Position()
        self.finished = False
        self.pinned = 0
        self.steps_done = 0
        self.recorder: Recorder | None = None
        self.modules: ModuleHooks | None = None
        self._framework: Framework | None = None
        self._output: Output | None = None
        self._watch: ProfilerWatch | None = None
        self._kineto: KinetoCapture | None = None
        self._models: set[int] = set()
        self._manual = False
        self._last_end: Mark | None = None
        self._prepared = False
        self._captured = 0
        self._removed = False

    # -- called by the framework's hooks ---------------------------------------------------

    def attach(self, framework: Framework) -> None:
        """Begin to count the steps of a framework; called once it is imported. Later calls change nothing."""
        self.guard.run(self._attach, framework)

    def step(self) -> None:
        """Mark the end of a training step by hand; optimizer steps no longer do."""
        self._manual = True
        self.guard.run(self._end_of_step)
        self._tidy()

    def on_optimizer_end(self) -> None:
        """The outermost optimizer step returned. Called outside the guard: hooks that are over are taken out here."""
        if not self._manual:
            self.guard.run(self._end_of_step)
        self._tidy()

    def on_training_work(self) -> None:
        """Training work is about to begin: open the step if one is due."""
        recorder = self.recorder
        if self.finished or recorder is None or recorder.recording or graph_is_captured():
            return
        if self._captured < self.settings.steps and self.steps_done >= self.settings.warmup:
            if self._kineto is not None:
                self._kineto.start_step(self.steps_done)
            assert self._framework is not None
            self._framework.start_step()
            recorder.start_step(self.steps_done, self._last_end)

    def on_model(self, model: torch.nn.Module) -> None:
        """A model chunk is about to run forward: hook it, one step before recording begins."""
        if self.finished:
            return
        if not self._prepared and self.steps_done >= self.settings.warmup - 1:
            self._prepare()
        if self.modules is None or id(model) in self._models:
            return
        assert self._framework is not None
        self._models.add(id(model))
        reason = self._framework.why_no_hooks(model)
        if reason:
            self._record_phases_only(reason)
        self._framework.on_model(model, () if reason else self.modules.install(model))

    def recording(self) -> Recorder | None:
        """The recorder while a step is recorded, None at other times and while a CUDA graph is captured."""
        recorder = self.recorder
        if recorder is None or recorder.record is None or self.finished or graph_is_captured():
            return None
        return recorder

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
        """Write what is recorded; hooks do nothing from here on, and are taken out once torch runs none. Idempotent."""
        if not self.finished:
            self.finished = True
            self.guard.run(self._close)
            self.guard.off = True
        self._tidy()

    def _record_phases_only(self, reason: str) -> None:
        """Modules must get no hooks: say so, once a node."""
        assert self.modules is not None
        if self.modules.allowed and local_rank() == 0:
            report(f"{reason}: modules get no hooks, only phases are recorded")
        self.modules.allowed = False

    # -- the work --------------------------------------------------------------------------

    def _attach(self, framework: Framework) -> None:
        if self._framework is not None:
            return
        self._framework = framework
        self.patches.packages += framework.packages
        framework.install(self)
        if self.settings.kernels:
            from vtrain_plugin.capture.profiler_watch import ProfilerWatch

            self._watch = ProfilerWatch(self.patches)
        atexit.register(self.close)

    def _prepare(self) -> None:
        """Install every hook and decide on clock and output; once, at the end of the warm-up."""
        self._prepared = True
        from vtrain_plugin.capture import collectives
        from vtrain_plugin.capture.clock import choose_clock
        from vtrain_plugin.capture.modules import ModuleHooks
        from vtrain_plugin.capture.output import Output
        from vtrain_plugin.capture.ranges import choose_ranges
        from vtrain_plugin.capture.run_id import CaptureId, job_store

        settings, framework = self.settings, self._framework
        assert framework is not None
        recorder = Recorder(choose_clock(), choose_ranges(settings.nvtx), settings.max_rows)
        capture = CaptureId(self._number, max(settings.warmup, self.steps_done), job_store())
        self._output = Output(capture, recorder, framework, settings, self.source)
        self.modules = ModuleHooks(self, framework)
        self.recorder = recorder
        collectives.install(self, framework)
        framework.install_recording(self)
        if settings.kernels:
            from vtrain_plugin.capture.kineto import KinetoCapture

            assert self._watch is not None
            self._kineto = KinetoCapture(self._watch)

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
        if self._captured >= self.settings.steps:
            # The device may be behind: steps whose marks it has not passed yet are written at a later end.
            self._write_what_is_known()

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
        self._output.flush()

    def _write_what_is_known(self) -> None:
        """After the last step of the capture: write without waiting, and end once all is written."""
        assert self._output is not None
        self._output.flush()
        if not self._output.pending:
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
        output.finish()
        if self._kineto is not None and self._captured:
            output.write(self._kineto.rows(output.sink().run_id, output.rank))
            if self._kineto.why_none:
                report(f"no kernels are recorded: {self._kineto.why_none}")
        if recorder.dropped:
            report(
                f"{recorder.dropped} rows were dropped: the bound of {self.settings.max_rows} rows per step was reached"
            )
        if self._captured and output.rank == 0:
            report(f"captured {self._captured} steps to {self.settings.out}/run_id={output.sink().run_id}")

    def _tidy(self) -> None:
        """Once the capture is over: take every hook out, unless torch is in the middle of calling some."""
        if not self.finished or self._removed:
            return
        try:
            if not self.pinned and torch_is_idle():
                self._remove_hooks()
                self._removed = True
        except Exception as error:
            # Tried again at the end of the next step, and when the process ends.
            report(f"while taking hooks out: {type(error).__name__}: {error}")

    def _remove_hooks(self) -> None:
        """Each part is taken out whatever becomes of the others."""
        with ExitStack() as parts:
            if self._kineto is not None:
                parts.callback(self._kineto.abandon)
            if self._framework is not None:
                parts.callback(self._framework.remove)
            if self.modules is not None:
                parts.callback(self.modules.remove)
            parts.callback(self.patches.remove)

    def _abandon(self) -> None:
        """After a failure: hooks do nothing until they are taken out, at the end of the step."""
        self.finished = True
        if self._output is not None:
            self._output.drop()
