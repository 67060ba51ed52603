"""Two microbatches at once: the forward pass of one interleaved with the backward pass of another.

So Megatron-Core hides the communication of experts (``overlap_moe_expert_parallel_comm``, "combined 1F1B"). It calls
neither ``forward_step`` nor ``backward_step`` nor the layers, but their parts in turn: attention and router, dispatch,
experts, combine. Each part is a span, on the stream on which it runs; the modules inside have theirs as always.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from vtrain_plugin.adapters.megatron.context import ModelContext
from vtrain_plugin.adapters.megatron.microbatches import Microbatches, Place
from vtrain_plugin.capture.guard import report
from vtrain_plugin.capture.patches import Args, Function, Kwargs
from vtrain_plugin.capture.recorder import Span
from vtrain_plugin.capture.session import Session
from vtrain_schemas.operators import Operator

_SCHEDULE = "megatron.core.pipeline_parallel.combined_1f1b"
_NODES = "megatron.core.pipeline_parallel.utils"
# Positions of the arguments of `combined_forward_backward_step`.
_FORWARD_MODEL, _BACKWARD_MODEL, _BACKWARD_OUTPUT = 2, 6, 8


class CombinedPasses:
    """Knows which microbatches are under way, and records a span for each part of their passes."""

    def __init__(self, session: Session, context: ModelContext, microbatches: Microbatches) -> None:
        self._session = session
        self._context = context
        self._microbatches = microbatches
        self._places: dict[str, Place | None] = {}
        self._timed_classes: set[type] = set()
        self._said = False

    def install(self) -> None:
        """Wrap the step of two microbatches; nothing where this version has none."""
        schedule = sys.modules.get(_SCHEDULE)
        if schedule is not None:
            self._session.patches.wrap_function(schedule, "combined_forward_backward_step", self._wrap_step)

    def install_recording(self) -> None:
        """Wrap what makes the parts of a pass."""
        self._timed_classes = set()
        node = getattr(sys.modules.get(_NODES), "ScheduleNode", None)
        if node is not None:
            self._session.patches.wrap(node, "__init__", self._wrap_init)

    # -- the step --------------------------------------------------------------------------

    def _wrap_step(self, original: Function) -> Function:
        guard = self._session.guard

        def combined_forward_backward_step(*args: Any, **kwargs: Any) -> Any:
            guard.run(self._before_step, args, kwargs)
            result = original(*args, **kwargs)
            guard.run(self._after_step, result)
            return result

        return combined_forward_backward_step

    def _before_step(self, args: Args, kwargs: Kwargs) -> None:
        def argument(name: str, position: int) -> Any:
            return kwargs[name] if name in kwargs else args[position] if len(args) > position else None

        model = argument("f_model", _FORWARD_MODEL)
        self._places["forward"] = self._microbatches.begin_forward(model) if model is not None else None
        self._places["backward"] = None
        if self._session.recording() is None:
            return
        self._say()
        if argument("b_model", _BACKWARD_MODEL) is not None:
            self._places["backward"] = self._microbatches.place_of(argument("b_output_tensor", _BACKWARD_OUTPUT))

    def _after_step(self, result: Any) -> None:
        place = self._places.get("forward")
        if place is not None:
            self._microbatches.end_forward(place, result[0])
        self._places = {}
        if self._session.modules is not None:
            self._session.modules.finish_backward()

    def _say(self) -> None:
        if not self._said and self._session.speaks:
            report(
                "passes of two microbatches are interleaved (overlap_moe_expert_parallel_comm): transformer layers "
                "have no spans, only their parts (attention and router, dispatch, experts, combine)"
            )
        self._said = True

    # -- its parts -------------------------------------------------------------------------

    def _wrap_init(self, original: Function) -> Function:
        guard = self._session.guard

        def initialize(node: Any, *args: Any, **kwargs: Any) -> None:
            original(node, *args, **kwargs)
            guard.run(self._time, node)

        return initialize

    def _time(self, node: Any) -> None:
        """Have a span around what a part runs on its stream."""
        if self._session.recorder is None:
            return
        name = str(getattr(node, "name", "") or "part")
        # The node itself must not be held: Megatron-Core frees it, with its tensors, by the count of its references.
        node.forward_func = self._timed(node.forward_func, name, "forward")
        node.backward_func = self._timed(node.backward_func, name, "backward")
        for cls in type(node).__mro__:
            if "backward_dw" in vars(cls) and cls not in self._timed_classes:
                self._timed_classes.add(cls)
                self._session.patches.wrap(cls, "backward_dw", self._wrap_weight_gradients)

    def _timed(self, function: Function, name: str, direction: str) -> Function:
        return self._in_part(function, lambda *args: self._begin(name, direction))

    def _wrap_weight_gradients(self, original: Function) -> Function:
        """Weight gradients that a part computes later than the gradient of its input."""

        def begin(node: Any) -> Span | None:
            if not getattr(node, "delay_wgrad_compute", True):
                return None
            return self._begin(f"{getattr(node, 'name', 'part')} wgrad", "backward")

        return self._in_part(original, begin)

    def _in_part(self, function: Function, begin: Callable[..., Span | None]) -> Function:
        guard = self._session.guard

        def run(*args: Any, **kwargs: Any) -> Any:
            span = guard.run(begin, *args)
            result = function(*args, **kwargs)
            if span is not None:
                guard.run(self._end, span)
            return result

        return run

    def _begin(self, name: str, direction: str) -> Span | None:
        session, place = self._session, self._places.get(direction)
        recorder = session.recording()
        if recorder is None or place is None:
            return None
        session.position.enter(direction, *place)
        span = recorder.new_span(name, f"{direction}_step", direction, microbatch=place.microbatch, chunk=place.chunk)
        if session.settings.operators and self._context.tokens:
            span.operator = Operator("other", direction, self._context.tokens)
        recorder.open(span)
        return span

    def _end(self, span: Span) -> None:
        session = self._session
        if span.phase == "backward" and session.modules is not None:
            session.modules.finish_backward()
        session.close_span(span)
        session.position.leave()
