"""The optimizer step: its end is the end of the training step; its parts are operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vtrain_schemas.operators import Operator

_PARTS = {"prepare_grads": "grad_prepare", "step_with_ready_grads": "optimizer"}
_FUNCTIONS = {"get_grad_norm_fp32": "grad_norm", "clip_grad_by_total_norm_fp32": "grad_clip"}


def install_step_counter(session: Any) -> None:
    """Wrap every optimizer class that defines ``step``, and the parts of the step."""
    from megatron.core.optimizer import clip_grads
    from megatron.core.optimizer import optimizer as optimizers

    depth = _Depth()
    for cls in _subclasses(optimizers.MegatronOptimizer):
        if "step" in vars(cls):
            session.patches.wrap(cls, "step", _wrap_step(session, depth))
        for method, kind in _PARTS.items():
            if method in vars(cls):
                session.patches.wrap(cls, method, _wrap_part(session, method, kind, _owned_elements))
    for function, kind in _FUNCTIONS.items():
        session.patches.wrap_function(clip_grads, function, _wrap_part(session, function, kind, _listed_elements))


class _Depth:
    """How many optimizer steps are under way: a chained optimizer's step runs others'."""

    def __init__(self) -> None:
        self.value = 0


def _subclasses(cls: Any) -> list[Any]:
    found: list[Any] = [cls]
    for child in cls.__subclasses__():
        found.extend(c for c in _subclasses(child) if c not in found)
    return found


def _wrap_step(session: Any, depth: _Depth) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def step(self: Any, *args: Any, **kwargs: Any) -> Any:
            span = None
            if depth.value == 0:
                span = session.guard.run(_open, session, "optimizer", "optimizer", None)
            depth.value += 1
            try:
                result = original(self, *args, **kwargs)
            finally:
                depth.value -= 1
            if depth.value == 0:
                if span is not None:
                    session.guard.run(session.recorder.close, span)
                session.guard.run(session.on_optimizer_end)
            return result

        return step

    return wrap


def _wrap_part(
    session: Any, name: str, kind: str, elements: Callable[[Any], int]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def begin(subject: Any) -> Any:
        recorder = session.recorder
        if recorder is None or not recorder.recording:
            return None
        count = elements(subject) if session.settings.operators else 0
        operator = Operator(kind, "update", count, dtype="float32") if count else None
        outer = recorder.current()
        if operator is not None and outer is not None and outer.name == name:
            # A subclass that calls its parent's method: the innermost one does the work.
            outer.operator = None
        return _open(session, name, "optimizer", operator)

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def part(*args: Any, **kwargs: Any) -> Any:
            subject = args[0] if args else next(iter(kwargs.values()), None)
            span = session.guard.run(begin, subject)
            result = original(*args, **kwargs)
            if span is not None:
                session.guard.run(session.recorder.close, span)
            return result

        return part

    return wrap


def _open(session: Any, name: str, kind: str, operator: Operator | None) -> Any:
    recorder = session.recorder
    if recorder is None or not recorder.recording:
        return None
    span = recorder.new_span(name, kind, "update")
    span.operator = operator
    recorder.open(span)
    return span


def _owned_elements(optimizer: Any) -> int:
    """Elements that this optimizer itself updates; 0 for one that only chains others."""
    if hasattr(optimizer, "chained_optimizers") or getattr(optimizer, "is_stub_optimizer", False):
        return 0
    return sum(p.numel() for group in optimizer.param_groups for p in group["params"])


def _listed_elements(tensors: Any) -> int:
    tensors = tensors if isinstance(tensors, (list, tuple)) else [tensors]
    return sum(t.numel() for t in tensors if hasattr(t, "numel"))
