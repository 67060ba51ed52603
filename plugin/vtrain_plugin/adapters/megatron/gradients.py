"""Gradient buffers: reset, synchronisation, and the gather of updated parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtrain_plugin.capture.patches import Wrapper
from vtrain_plugin.capture.recorder import Span
from vtrain_plugin.capture.session import Session
from vtrain_plugin.capture.wrapping import in_span
from vtrain_schemas.operators import Operator

if TYPE_CHECKING:
    from megatron.core.distributed import DistributedDataParallel


def install(session: Session) -> None:
    """Wrap the methods of Megatron-Core's DistributedDataParallel and of its bucket groups."""
    from megatron.core.distributed import distributed_data_parallel as ddp
    from megatron.core.distributed import param_and_grad_buffer as buffers

    patches = session.patches
    model = ddp.DistributedDataParallel
    patches.wrap(model, "zero_grad_buffer", _reset(session))
    patches.wrap(model, "finish_grad_sync", _span(session, "finish_grad_sync", "grad_sync"))
    gather = _span(session, "start_param_sync", "param_sync")
    # Since 0.18 optimizers gather the buckets that are theirs, past the method that gathers all.
    if not patches.wrap(model, "_start_bucket_group_param_sync", gather):
        patches.wrap(model, "start_param_sync", gather)
    groups = getattr(buffers, "_ParamAndGradBucketGroup", None)
    if groups is not None:
        patches.wrap(groups, "start_grad_sync", _span(session, "start_grad_sync", "grad_sync"))
        patches.wrap(groups, "finish_param_sync", _span(session, "finish_param_sync", "param_sync"))


def _reset(session: Session) -> Wrapper:
    """The reset of the gradient buffers: the first work of a step."""

    def begin(model: DistributedDataParallel, *args: object, **kwargs: object) -> Span | None:
        session.on_training_work()
        span = session.open_span("zero_grad", "zero_grad", session.backward_span())
        if span is not None and session.settings.operators:
            elements = sum(p.numel() for p in model.module.parameters() if p.requires_grad)
            span.operator = Operator("zero_grad", "update", elements, dtype="float32")
        return span

    return in_span(session, begin)


def _span(session: Session, name: str, kind: str) -> Wrapper:
    def begin(*args: object, **kwargs: object) -> Span | None:
        return session.open_span(name, kind, session.backward_span())

    return in_span(session, begin)
