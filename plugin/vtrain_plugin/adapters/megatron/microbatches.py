"""Microbatches: Megatron-Core's ``forward_step`` and ``backward_step``, which its schedules call.

Both are looked up in their module at call time by all schedules (no pipelining, 1F1B, interleaved), so wrapping them
covers training loops that obtained the schedule function earlier. `combined` has the schedule that calls neither.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from vtrain_plugin.adapters.megatron import cuda_graphs
from vtrain_plugin.adapters.megatron.context import ModelContext
from vtrain_plugin.capture.patches import Args, Function, Kwargs
from vtrain_plugin.capture.recorder import Span
from vtrain_plugin.capture.session import Session
from vtrain_schemas.operators import Operator

if TYPE_CHECKING:
    import torch

# Of one module, and of several modules that are pipelines of their own.
_BACKWARD = ("backward_step", "backward_step_multimodule")
SCHEDULES = "megatron.core.pipeline_parallel.schedules"


class Place(NamedTuple):
    """Which microbatch of the step, of which virtual pipeline chunk; None where it is not known."""

    microbatch: int | None
    chunk: int | None


class Microbatches:
    """Numbers microbatches and chunks, and records a span for each pass."""

    def __init__(self, session: Session, context: ModelContext) -> None:
        self._session = session
        self._context = context
        self._chunk_of: dict[int, int] = {}
        self._forward_count: dict[int, int] = {}
        # id(output tensor) -> (tensor, place): the backward pass is given the same object.
        self._outputs: dict[int, tuple[torch.Tensor, Place]] = {}
        self._optimizer_wrapped = False

    def install(self) -> None:
        """Wrap forward_step and backward_step."""
        schedules = sys.modules[SCHEDULES]
        self._session.patches.wrap_function(schedules, "forward_step", self._wrap_forward)
        for name in _BACKWARD:
            self._session.patches.wrap_function(schedules, name, self._wrap_backward)
        cuda_graphs.install(self._session, self._before_graph)

    def new_step(self) -> None:
        """Microbatches are numbered from 0 again."""
        self._forward_count = {}
        self._outputs = {}

    def _wrap_forward(self, original: Function) -> Function:
        guard = self._session.guard

        def forward_step(*args: Any, **kwargs: Any) -> Any:
            span = guard.run(self._before_forward, args, kwargs)
            result = original(*args, **kwargs)
            guard.run(self._after_forward, span, result)
            return result

        return forward_step

    def _wrap_backward(self, original: Function) -> Function:
        guard = self._session.guard

        def backward_step(*args: Any, **kwargs: Any) -> Any:
            span = guard.run(self._before_backward, args, kwargs)
            result = original(*args, **kwargs)
            guard.run(self._after_backward, span)
            return result

        return backward_step

    def begin_forward(self, model: torch.nn.Module) -> Place | None:
        """A forward pass with gradients begins; None in a step that is not recorded, and in evaluation."""
        import torch

        session = self._session
        if session.finished or not torch.is_grad_enabled():
            return None
        self._begin_work(model)
        recorder = session.recording()
        if recorder is None or recorder.record is None:
            return None
        chunk = self._chunk_of.setdefault(id(model), len(self._chunk_of))
        microbatch = self._forward_count.get(chunk, 0)
        self._forward_count[chunk] = microbatch + 1
        if chunk == 0:
            recorder.record.microbatches = max(recorder.record.microbatches, microbatch + 1)
        return Place(microbatch, chunk)

    def end_forward(self, place: Place, output: object) -> None:
        """The pass is over; `output` is what its backward pass will be given."""
        tensor = _first(output)
        if tensor is not None:
            self._outputs[id(tensor)] = (tensor, place)
        recorder = self._session.recorder
        if place.chunk == 0 and recorder is not None and recorder.record is not None:
            recorder.record.tokens += self._context.tokens

    def place_of(self, output: object) -> Place:
        """Where the forward pass was that made an output; asked once."""
        return self._outputs.pop(id(_first(output)), (None, Place(None, None)))[1]

    def _before_forward(self, args: Args, kwargs: Kwargs) -> Span | None:
        place = self.begin_forward(kwargs["model"] if "model" in kwargs else args[2])
        if place is None:
            return None
        self._session.position.enter("forward", *place)
        return self._open("forward_step", "forward", *place)

    def _begin_work(self, *models: torch.nn.Module) -> None:
        """Training work on these model chunks is about to begin."""
        session = self._session
        if not self._optimizer_wrapped:
            self._optimizer_wrapped = True
            from vtrain_plugin.adapters.megatron import optimizer_step

            optimizer_step.install(session, self._context)
        for model in models:
            session.on_model(model)
        session.on_training_work()

    def _before_graph(self, kwargs: Kwargs) -> None:
        """An iteration that is one CUDA graph: its microbatches are not seen."""
        if self._session.finished or kwargs.get("forward_only"):
            return
        models = kwargs["model"]
        self._context.see_sizes(kwargs.get("seq_length"), kwargs.get("micro_batch_size"))
        self._begin_work(*(models if isinstance(models, (list, tuple)) else (models,)))
        recorder = self._session.recording()
        if recorder is not None and recorder.record is not None:
            recorder.record.microbatches = kwargs["num_microbatches"]
            recorder.record.tokens = kwargs["num_microbatches"] * self._context.tokens

    def _after_forward(self, span: Span | None, result: object) -> None:
        session = self._session
        if span is None or session.recorder is None:
            return
        self.end_forward(Place(span.microbatch, span.chunk), result[0] if isinstance(result, tuple) else result)
        self._describe(span)
        session.recorder.close(span)
        session.position.leave()

    def _before_backward(self, args: Args, kwargs: Kwargs) -> Span | None:
        session = self._session
        if session.finished or session.recording() is None:
            return None
        place = self.place_of(kwargs["output_tensor"] if "output_tensor" in kwargs else args[1])
        session.position.enter("backward", *place)
        span = self._open("backward_step", "backward", *place)
        if span is not None:
            self._describe(span)
        return span

    def _after_backward(self, span: Span | None) -> None:
        session = self._session
        if span is None:
            return
        if session.modules is not None:
            session.modules.finish_backward()
        session.close_span(span)
        session.position.leave()

    def _open(self, kind: str, phase: str, microbatch: int | None, chunk: int | None) -> Span | None:
        recorder = self._session.recording()
        if recorder is None:
            return None
        span = recorder.new_span(kind, kind, phase, microbatch=microbatch, chunk=chunk)
        span.remainder = "microbatch"
        recorder.open(span)
        return span

    def _describe(self, span: Span) -> None:
        """Say what the rest of a microbatch's span is an operator of."""
        tokens = self._context.tokens
        if self._session.settings.operators and tokens:
            span.operator = Operator("microbatch", span.phase, tokens)


def _first(output: Any) -> torch.Tensor | None:
    """The (first) output tensor of a stage, or of the first module of several."""
    while isinstance(output, (list, tuple, dict)):
        output = next(iter(output.values() if isinstance(output, dict) else output), None)
    return output
