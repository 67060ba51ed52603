"""Gradient buffers: reset, synchronisation, and the gather of updated parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vtrain_schemas.operators import Operator


def install(session: Any) -> None:
    """Wrap the methods of Megatron-Core's DistributedDataParallel and of its bucket groups."""
    from megatron.core.distributed import distributed_data_parallel as ddp
    from megatron.core.distributed import param_and_grad_buffer as buffers

    patches = session.patches
    model = ddp.DistributedDataParallel
    patches.wrap(model, "zero_grad_buffer", _span(session, "zero_grad", "zero_grad", _reset_operator))
    patches.wrap(model, "finish_grad_sync", _span(session, "finish_grad_sync", "grad_sync"))
    patches.wrap(model, "start_param_sync", _span(session, "start_param_sync", "param_sync"))
    groups = getattr(buffers, "_ParamAndGradBucketGroup", None)
    if groups is not None:
        patches.wrap(groups, "start_grad_sync", _span(session, "start_grad_sync", "grad_sync"))
        patches.wrap(groups, "finish_param_sync", _span(session, "finish_param_sync", "param_sync"))


def _reset_operator(model: Any) -> Operator:
    elements = sum(p.numel() for p in model.module.parameters() if p.requires_grad)
    return Operator("zero_grad", "update", elements, dtype="float32")


def _span(
    session: Any, name: str, kind: str, operator: Callable[[Any], Operator] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    opens_step = kind == "zero_grad"

    def begin(owner: Any) -> Any:
        if opens_step:
            session.on_training_work()
        recorder = session.recorder
        if recorder is None or not recorder.recording:
            return None
        backward = session.hooks_innermost()
        span = recorder.new_span(name, kind, "update", parent=backward)
        if operator is not None and session.settings.operators:
            span.operator = operator(owner)
        recorder.open(span)
        return span

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            span = session.guard.run(begin, self)
            result = original(self, *args, **kwargs)
            if span is not None:
                session.guard.run(session.recorder.close, span)
            return result

        return method

    return wrap
