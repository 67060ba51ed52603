"""Microbatches: Megatron-Core's ``forward_step`` and ``backward_step``, which every schedule calls.

Both are looked up in their module at call time by all schedules (no pipelining, 1F1B,
interleaved), so wrapping them covers training loops that obtained the schedule function earlier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def install(session: Any, schedules: Any) -> None:
    """Wrap forward_step and backward_step, and count optimizer steps from the first one on."""
    state = MicrobatchState(session)
    session.microbatches = state
    session.patches.wrap_function(schedules, "forward_step", state.wrap_forward)
    session.patches.wrap_function(schedules, "backward_step", state.wrap_backward)


class MicrobatchState:
    """Which microbatch and chunk runs, and in which direction."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.direction = ""
        self.microbatch: int | None = None
        self.chunk: int | None = None
        self._chunk_of: dict[int, int] = {}
        self._forward_count: dict[int, int] = {}
        # id(output tensor) -> (tensor, microbatch, chunk): backward_step is given the same object.
        self._outputs: dict[int, tuple[Any, int, int]] = {}
        self._optimizer_wrapped = False

    def wrap_forward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        session = self.session

        def forward_step(*args: Any, **kwargs: Any) -> Any:
            span = session.guard.run(self._before_forward, args, kwargs)
            result = original(*args, **kwargs)
            session.guard.run(self._after_forward, span, result)
            return result

        return forward_step

    def wrap_backward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        session = self.session

        def backward_step(*args: Any, **kwargs: Any) -> Any:
            span = session.guard.run(self._before_backward, args, kwargs)
            result = original(*args, **kwargs)
            session.guard.run(self._after_backward, span)
            return result

        return backward_step

    def new_step(self) -> None:
        self._forward_count = {}
        self._outputs = {}

    def _before_forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        import torch

        session = self.session
        if session.finished or not torch.is_grad_enabled():  # evaluation
            return None
        if not self._optimizer_wrapped:
            self._optimizer_wrapped = True
            from vtrain_plugin.adapters.megatron import optimizer

            optimizer.install_step_counter(session)
        model = kwargs["model"] if "model" in kwargs else args[2]
        session.on_model(model)
        session.on_training_work()
        recorder = session.recorder
        if recorder is None or not recorder.recording:
            return None
        chunk = self._chunk_of.setdefault(id(model), len(self._chunk_of))
        microbatch = self._forward_count.get(chunk, 0)
        self._forward_count[chunk] = microbatch + 1
        self.direction, self.microbatch, self.chunk = "forward", microbatch, chunk
        span = recorder.new_span("forward_step", "forward_step", "forward", microbatch=microbatch, chunk=chunk)
        span.remainder = "microbatch"
        recorder.open(span)
        if chunk == 0:
            recorder.record.microbatches = max(recorder.record.microbatches, microbatch + 1)
        return span

    def _after_forward(self, span: Any, result: Any) -> None:
        if span is None:
            return
        session = self.session
        output = result[0] if isinstance(result, tuple) else result
        if isinstance(output, (list, tuple)):
            output = output[0] if output else None
        if output is not None:
            self._outputs[id(output)] = (output, span.microbatch, span.chunk)
        session.hooks_describe_microbatch(span)
        session.recorder.close(span)
        self.direction = ""

    def _before_backward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        session = self.session
        recorder = session.recorder
        if session.finished or recorder is None or not recorder.recording:
            return None
        output = kwargs["output_tensor"] if "output_tensor" in kwargs else args[1]
        if isinstance(output, (list, tuple)):
            output = output[0] if output else None
        _, microbatch, chunk = self._outputs.pop(id(output), (None, None, None))
        self.direction, self.microbatch, self.chunk = "backward", microbatch, chunk
        span = recorder.new_span("backward_step", "backward_step", "backward", microbatch=microbatch, chunk=chunk)
        span.remainder = "microbatch"
        session.hooks_describe_microbatch(span)
        recorder.open(span)
        return span

    def _after_backward(self, span: Any) -> None:
        if span is not None:
            self.session.hooks_finish_backward()
            self.session.recorder.close(span)
            self.direction = ""
