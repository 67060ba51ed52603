"""The optimizer step: its end is the end of the training step; its parts are operators."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vtrain_plugin.adapters.megatron.context import ModelContext
from vtrain_plugin.capture.guard import report
from vtrain_plugin.capture.patches import Function, Wrapper
from vtrain_plugin.capture.recorder import Span
from vtrain_plugin.capture.session import Session
from vtrain_plugin.capture.wrapping import in_span
from vtrain_schemas.operators import Operator

if TYPE_CHECKING:
    import torch
    from megatron.core.optimizer.optimizer import MegatronOptimizer

# A step that is a CUDA graph runs no method of an optimizer: its wrapper replays it.
_GRAPH = "megatron.core.optimizer.optimizer_cuda_graph"
_PARTS = {"prepare_grads": "grad_prepare", "step_with_ready_grads": "optimizer"}
_FUNCTIONS = {"get_grad_norm_fp32": "grad_norm", "clip_grad_by_total_norm_fp32": "grad_clip"}


def install(session: Session, context: ModelContext) -> None:
    """Wrap every optimizer class that defines ``step``, its wrapper for CUDA graphs, and the parts of the step."""
    from megatron.core.optimizer import clip_grads
    from megatron.core.optimizer import optimizer as optimizers

    counter = _StepCounter(session, context)
    for cls in _with_subclasses(optimizers.MegatronOptimizer):
        if "step" in vars(cls):
            session.patches.wrap(cls, "step", counter.wrap)
        for method, kind in _PARTS.items():
            if method in vars(cls):
                session.patches.wrap(cls, method, _wrap_part(session, method, kind, updated_elements))
    graph = getattr(sys.modules.get(_GRAPH), "OptimizerCudaGraphWrapper", None)
    if graph is not None:
        session.patches.wrap(graph, "__call__", counter.wrap)
    for function, kind in _FUNCTIONS.items():
        session.patches.wrap_function(clip_grads, function, _wrap_part(session, function, kind, _listed_elements))


class _StepCounter:
    """Ends the training step with the outermost optimizer step: a chained optimizer's step runs others'."""

    def __init__(self, session: Session, context: ModelContext) -> None:
        self._session = session
        self._context = context
        self._depth = 0
        self._said = False

    def wrap(self, original: Function) -> Function:
        """A `step` method, or what stands for it."""
        session = self._session

        def step(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            span = session.guard.run(self._begin, optimizer) if self._depth == 0 else None
            self._depth += 1
            try:
                result = original(optimizer, *args, **kwargs)
            finally:
                self._depth -= 1
            if self._depth == 0:
                if span is not None:
                    session.guard.run(session.close_span, span)
                session.on_optimizer_end()
            return result

        return step

    def _begin(self, optimizer: Any) -> Span | None:
        step = getattr(optimizer, "optimizer_step_func", None)
        if step is not None:
            optimizer = getattr(step, "__self__", optimizer)
            self._say()
        if self._context.optimizer is None:
            self._context.see_optimizer(optimizer)
        return self._session.open_span("optimizer", "optimizer")

    def _say(self) -> None:
        if not self._said and self._session.speaks and self._session.recording() is not None:
            self._said = True
            report("the optimizer step is a CUDA graph: its parts are not recorded")


def _with_subclasses(cls: type) -> list[type]:
    classes = [cls]
    children: list[type] = cls.__subclasses__()
    for child in children:
        classes.extend(c for c in _with_subclasses(child) if c not in classes)
    return classes


def _wrap_part(session: Session, name: str, kind: str, elements: Callable[[object], int]) -> Wrapper:
    """A part of the step, as an operator. elements: how many it works on, by its first argument."""

    def begin(*args: object, **kwargs: object) -> Span | None:
        recorder = session.recording()
        if recorder is None:
            return None
        subject = args[0] if args else next(iter(kwargs.values()), None)
        count = elements(subject) if session.settings.operators else 0
        operator = Operator(kind, "update", count, dtype="float32") if count else None
        outer = recorder.current()
        if operator is not None and outer is not None and outer.name == name:
            # A subclass that calls its parent's method: the innermost one does the work.
            outer.operator = None
        span = session.open_span(name, "optimizer")
        if span is not None:
            span.operator = operator
        return span

    return in_span(session, begin)


def updated_elements(optimizer: MegatronOptimizer) -> int:
    """Elements that this optimizer itself updates; 0 for one that only chains others."""
    if hasattr(optimizer, "chained_optimizers") or getattr(optimizer, "is_stub_optimizer", False):
        return 0
    return sum(p.numel() for group in optimizer.param_groups for p in group["params"])


def _listed_elements(tensors: torch.Tensor | list[torch.Tensor]) -> int:
    tensors = tensors if isinstance(tensors, (list, tuple)) else [tensors]
    return sum(t.numel() for t in tensors if hasattr(t, "numel"))
