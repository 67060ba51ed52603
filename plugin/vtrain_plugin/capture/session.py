"""What is armed in one process: counts training steps, and opens a window where a capture is due.

The states are: armed (only what counts steps is wrapped: see `Framework.install`), recording (a `Window` has every
hook in), finished (hooks do nothing, and are taken out at once or, inside a step, when it is over).
"""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from vtrain_plugin.capture.device import graph_is_captured
from vtrain_plugin.capture.guard import Guard, report
from vtrain_plugin.capture.idle import torch_is_idle
from vtrain_plugin.capture.moments import moment_of
from vtrain_plugin.capture.patches import Patches
from vtrain_plugin.capture.plain_steps import StepIntervals
from vtrain_plugin.capture.process import local_rank, local_world_size, may_train, rank, world_size
from vtrain_plugin.capture.recorder import Position, Recorder, Span
from vtrain_plugin.capture.run_id import next_capture
from vtrain_plugin.capture.settings import Settings
from vtrain_schemas.rank_choice import parse_ranks

if TYPE_CHECKING:
    import torch

    from vtrain_plugin.capture.collectives import CallRecorder
    from vtrain_plugin.capture.framework import Framework
    from vtrain_plugin.capture.modules import ModuleHooks
    from vtrain_plugin.capture.profiler_watch import ProfilerWatch
    from vtrain_plugin.capture.window import Window


class Session:
    """Drives the captures of one process. All methods are safe to call from training code.

    source: what the runs table says wrote the profile; `vtrain-profile rank` says "rank". speaks: whether this rank
    says what all ranks would say. finished: no hook does anything any more. pinned: contexts under way that
    compare functions with those they began with. certain: see `__init__`. steps_done: training steps since the
    process was armed. patches, recorder, modules, calls: of the window, or of the armed session (patches) and None.
    """

    def __init__(self, settings: Settings, frameworks: Sequence[str] = (), certain: bool = True) -> None:
        """frameworks: names of the known ones. certain: that this process itself is to train, not a child of it."""
        self.settings = settings
        self.certain = certain
        self.source = "plugin"
        self.speaks = True
        self.guard = Guard()
        self.guard.on_error = self._abandon
        self.patches = self._armed = Patches()
        self.position = Position()
        self.finished = False
        self.pinned = 0
        self.steps_done = 0
        self.recorder: Recorder | None = None
        self.modules: ModuleHooks | None = None
        self.calls: CallRecorder | None = None
        self._frameworks = frameworks
        self._number = next_capture()
        self._moment = moment_of(settings.at, settings.warmup)
        self._framework: Framework | None = None
        self._watch: ProfilerWatch | None = None
        self._window: Window | None = None
        # Those that are not written yet.
        self._windows: list[Window] = []
        self._closed = False
        self._intervals = StepIntervals()
        self._chosen: bool | None = None
        self._captured = False
        self._manual = False
        self._removed = False
        self._moment.start()
        atexit.register(self.close)

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
        if self._window is not None and not self.finished:
            self._window.begin_step(self.steps_done)

    def on_model(self, model: torch.nn.Module) -> None:
        """A model chunk is about to run forward: hook it, one step before recording begins."""
        if self.finished or not self._is_chosen():
            return
        if self._window is None:
            step = self._moment.next_step(self.steps_done)
            if step is not None and self.steps_done >= step - 1:
                self._open_window(step)
        if self._window is not None and not self._window.over:
            self._window.on_model(model)

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
        if not self._closed:
            self._closed = self.finished = True
            self.guard.run(self._close)
            self.guard.off = True
            atexit.unregister(self.close)
        self._tidy()

    def cancel(self) -> None:
        """Switch off before anything was recorded, without a word."""
        self._closed = self.finished = self.guard.off = True
        atexit.unregister(self.close)
        self._tidy()

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

    def _is_chosen(self) -> bool:
        """Whether this rank is one to capture; the session of another one ends."""
        if self._chosen is None:
            choice, me = parse_ranks(self.settings.ranks), rank()
            world = choice.of_world(world_size(), local_world_size())
            self.speaks = me == min(world, default=0)
            if not world and self.speaks:
                report(f"nothing captured: ranks {self.settings.ranks!r} are none of the {world_size()} here")
            self._chosen = choice.includes(me, local_rank())
            if not self._chosen:
                self.close()
        return self._chosen

    def _open_window(self, step: int) -> None:
        """Install every hook, one step before the first that is recorded."""
        from vtrain_plugin.capture.window import Window

        assert self._framework is not None
        first_step = max(step, self.steps_done)
        self._moment.taken(first_step + self.settings.steps)
        plain_ns = self._intervals.take()
        window = Window(self, self._framework, self._number, first_step, self._watch, plain_ns)
        self._window, self.patches = window, window.patches
        self._windows.append(window)
        self.recorder, self.modules = window.recorder, window.modules
        window.install()

    def _end_of_step(self) -> None:
        if self.finished:
            return
        self.steps_done += 1
        # Hooks of a capture that is over are taken out at the end of a step: the next one is plain.
        interval_ns = self._intervals.end_step(not self._windows)
        if self._window is not None and not self._window.over:
            self._window.end_step(interval_ns)
            self._captured = self._captured or self._window.captured > 0
            # What was done here is part of no span.
            self._intervals.restart()
        settled = [window.settle() for window in self._windows]
        self._windows = [window for window in self._windows if not window.written]
        if self._moment.exhausted and self._captured and all(settled):
            self.finished = True

    def _close(self) -> None:
        for window in self._windows:
            window.close()
            self._captured = self._captured or window.captured > 0
        if not self._captured and self._chosen is not False and self.speaks:
            reason = self._why_nothing()
            if reason:
                report(f"nothing captured: {reason}")

    def _why_nothing(self) -> str:
        """Why no step was captured; "" where none was to be."""
        if self._framework is None:
            if not (self.certain or may_train()):
                return ""
            known = ", ".join(self._frameworks) or "none"
            return (
                f"no training framework that the plugin knows was imported (known: {known}); "
                "a training loop of another kind needs an adapter (vtrain_plugin.adapters.Adapter)"
            )
        if self._chosen is None:
            return f"no training step of {self._framework.name} ran: its forward pass with gradients was not called"
        if self._window is not None:
            return f"training ended after {self.steps_done} steps, before a step to capture was over"
        return f"training ended after {self.steps_done} steps, {self._moment.missed}"

    def _tidy(self) -> None:
        """Take out the hooks of what is over, unless torch is in the middle of calling some."""
        over = self._window is not None and self._window.over
        if self._removed or not (self.finished or over):
            return
        try:
            if not self.pinned and torch_is_idle():
                self._remove_hooks()
        except Exception as error:
            # Tried again at the end of the next step, and when the process ends.
            report(f"while taking hooks out: {type(error).__name__}: {error}")

    def _remove_hooks(self) -> None:
        """Those of the window, and where the session is over all others; each part whatever becomes of the others."""
        with ExitStack() as parts:
            if self.finished:
                parts.callback(self._moment.stop)
                if self._framework is not None:
                    parts.callback(self._framework.remove)
                parts.callback(self._armed.remove)
            if self._window is not None:
                parts.callback(self._window.remove_hooks)
        self._removed = self.finished
        self._window, self.patches = None, self._armed
        self.recorder = self.modules = self.calls = None

    def _abandon(self) -> None:
        """After a failure: hooks do nothing until they are taken out, at the end of the step."""
        self.finished = True
        for window in self._windows:
            # One that is over is whole, unless it is what failed.
            if not window.over or window.writes_here:
                window.abandon()
