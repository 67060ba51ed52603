"""One capture: the hooks, the recorder and the output for some steps in a row."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from vtrain_plugin.capture import collectives
from vtrain_plugin.capture.clock import choose_clock
from vtrain_plugin.capture.collector import QuietCollector
from vtrain_plugin.capture.device import graph_is_captured, peak_memory
from vtrain_plugin.capture.guard import report
from vtrain_plugin.capture.kineto import KinetoCapture
from vtrain_plugin.capture.modules import ModuleHooks
from vtrain_plugin.capture.output import Output
from vtrain_plugin.capture.patches import Patches
from vtrain_plugin.capture.ranges import choose_ranges
from vtrain_plugin.capture.recorder import Recorder
from vtrain_plugin.capture.run_id import CaptureId, job_store

if TYPE_CHECKING:
    import torch

    from vtrain_plugin.capture.framework import Framework
    from vtrain_plugin.capture.profiler_watch import ProfilerWatch
    from vtrain_plugin.capture.session import Session


class Window:
    """Records from step `first_step` on, as many steps as the settings say.

    capture: ordinal of the session in the process. watch: for ``--kernels``. plain_ns: intervals of
    steps before it without hooks. captured: steps so far. over: nothing more will be recorded.
    """

    def __init__(
        self,
        session: Session,
        framework: Framework,
        capture: int,
        first_step: int,
        watch: ProfilerWatch | None,
        plain_ns: list[int],
    ) -> None:
        settings = session.settings
        self._session = session
        self._framework = framework
        self._settings = settings
        self._first_step = first_step
        self._models: set[int] = set()
        self._collector = QuietCollector()
        self.captured = 0
        self.over = False
        self.patches = Patches(*session.patches.packages)
        self.recorder = Recorder(choose_clock(), choose_ranges(settings.nvtx), settings.max_rows)
        self.modules = ModuleHooks(session, framework)
        self._output = Output(
            CaptureId(capture, first_step, job_store()),
            self.recorder,
            framework,
            settings,
            session.source,
            plain_ns,
            session.guard,
            self._write_traces,
            self._say_what_was_captured,
        )
        self._kineto = KinetoCapture(watch, settings.kernel_steps) if watch is not None else None

    def install(self) -> None:
        """Wrap what is recorded; modules are hooked when they are about to run."""
        self._session.calls = collectives.install(self._session, self._framework)
        self._framework.install_recording(self._session)

    def on_model(self, model: torch.nn.Module) -> None:
        """A model chunk is about to run forward."""
        if id(model) in self._models:
            return
        self._models.add(id(model))
        reason = self._framework.why_no_hooks(model)
        if reason:
            self._record_phases_only(reason)
        self._framework.on_model(model, () if reason else self.modules.install(model))

    def _record_phases_only(self, reason: str) -> None:
        """Modules must get no hooks: say so, once."""
        if self.modules.allowed and self._session.speaks:
            report(f"{reason}: modules get no hooks, only phases are recorded")
        self.modules.allowed = False

    def begin_step(self, step: int) -> None:
        """Training work is about to begin: open the step if it is one to record."""
        if self.recorder.recording or step < self._first_step or self.captured >= self._settings.steps:
            return
        if graph_is_captured():
            return
        self._output.begin_step()
        if self._kineto is not None:
            self._kineto.start_step(step)
        self._collector.begin()
        self._framework.start_step()
        self.recorder.start_step(step)

    def end_step(self, interval_ns: int | None) -> None:
        """A training step ended, recorded or not; the window is over with the last one. interval_ns: of the step."""
        if self.recorder.recording:
            self._end_recorded_step(interval_ns)
        self.over = self.over or self.captured >= self._settings.steps

    def _end_recorded_step(self, interval_ns: int | None) -> None:
        memory = peak_memory()
        record = self.recorder.end_step()
        # A profiled step takes longer by more than what is recorded of it.
        profiled = self._kineto is not None and self._kineto.running
        record.memory, record.interval_ns = memory, None if profiled else interval_ns
        sealed = self.recorder.clock.seal_step()
        if self._kineto is not None:
            self._kineto.end_step()
        self._output.add(record, sealed)
        self.captured += 1

    def settle(self) -> bool:
        """Where the window is over, have it written; False as long as that has to wait for the device."""
        return self.over and self._output.end()

    @property
    def writes_here(self) -> bool:
        """Whether this is the thread that writes it."""
        return self._output.writes_here

    @property
    def written(self) -> bool:
        """Whether all is written."""
        return self._output.written.is_set()

    def close(self) -> None:
        """Record nothing more, and wait until what is recorded is written."""
        self.over = True
        if self.recorder.recording:
            # Training ended inside a step (an exception, a signal): the step is not whole.
            self.recorder.end_step()
        self._output.finish()

    def _write_traces(self) -> None:
        """The kernel traces."""
        if self._kineto is not None and self.captured:
            self._kineto.write(self._output.sink())
            if self._kineto.why_none:
                report(f"no kernels are recorded: {self._kineto.why_none}")

    def _say_what_was_captured(self) -> None:
        """What was captured and what was not."""
        if self.recorder.dropped:
            report(
                f"{self.recorder.dropped} rows were dropped: the bound of {self._settings.max_rows} rows per step "
                "was reached"
            )
        if self.captured and self._session.speaks:
            all_steps = self.captured == self._settings.steps
            steps = f"{self.captured} steps" if all_steps else f"{self.captured} of {self._settings.steps} steps"
            report(f"captured {steps} to {self._settings.out}/run_id={self._output.sink().run_id}")

    def abandon(self) -> None:
        """After a failure: forget what is not written."""
        self.over = True
        self._output.drop()

    def remove_hooks(self) -> None:
        """Take everything out of training; each part whatever becomes of the others."""
        with ExitStack() as parts:
            if self._kineto is not None:
                parts.callback(self._kineto.abandon)
            parts.callback(self._collector.end)
            parts.callback(self.modules.remove)
            parts.callback(self.patches.remove)
