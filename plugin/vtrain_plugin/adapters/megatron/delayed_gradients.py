"""Weight gradients that are computed later than the rest of the backward pass, behind communication.

Transformer Engine's layers keep what they need for it (``delay_wgrad_compute``) until Megatron-Core calls their
``backward_dw``; the output layer's may be left to the end of all passes (``defer_embedding_wgrad_compute``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from vtrain_plugin.adapters.megatron.microbatches import SCHEDULES
from vtrain_plugin.capture.hooked import Hooked
from vtrain_plugin.capture.modules import in_phase
from vtrain_plugin.capture.recorder import Span
from vtrain_plugin.capture.session import Session
from vtrain_plugin.capture.wrapping import in_span
from vtrain_schemas.operators import Operator

if TYPE_CHECKING:
    import torch


def is_delayed(module: torch.nn.Module) -> bool:
    """Whether a layer keeps its weight gradient for later: it is one of Transformer Engine then."""
    delayed = getattr(getattr(module, "wgrad_store", None), "delay_wgrad_compute", None)
    return callable(delayed) and bool(delayed())


def install(session: Session) -> None:
    """Wrap what computes the weight gradient of the output layer once all passes are over."""

    name = "finish_embedding_wgrad_compute"

    def begin(config: object, *args: object, **kwargs: object) -> Span | None:
        if not getattr(config, "defer_embedding_wgrad_compute", False):
            return None
        span = _open(session, Span(0, None, name, "output_layer", "backward"))
        if span is not None and session.settings.operators:
            span.operator = Operator("other", "wgrad")
        return span

    schedules = sys.modules[SCHEDULES]
    session.patches.wrap_function(schedules, name, in_span(session, begin))


def watch(session: Session, hooked: Sequence[Hooked]) -> None:
    """Record the weight gradients of hooked layers: backward spans, beside those of the gradients of their inputs."""
    for one in hooked:
        if one.module is not None and is_delayed(one.module):
            session.patches.wrap(one.module, "backward_dw", in_span(session, partial(_begin, session, one)))


def _begin(session: Session, hooked: Hooked, *args: object, **kwargs: object) -> Span | None:
    # The pass that has just ended is the one whose weight gradient is due.
    ended = hooked.ended
    if ended is None:
        return None
    span = _open(session, ended)
    if span is not None and ended.operator is not None:
        span.operator = in_phase(ended.operator, "wgrad")
        span.remainder = ended.remainder
    return span


def _open(session: Session, like: Span) -> Span | None:
    """Open a span of the same module and microbatch, inside whatever is under way."""
    recorder = session.recording()
    if recorder is None:
        return None
    span = recorder.new_span(
        like.name,
        like.kind,
        like.phase,
        parent=session.backward_span(),
        layer=like.layer,
        microbatch=like.microbatch,
        chunk=like.chunk,
    )
    recorder.open(span)
    return span
