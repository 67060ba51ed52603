"""A span around each communication call of the pipeline schedule."""

from __future__ import annotations

from vtrain_plugin.capture.recorder import Span
from vtrain_plugin.capture.session import Session
from vtrain_plugin.capture.wrapping import in_span


def install(session: Session) -> None:
    """Wrap ``_communicate``, through which every send and receive of a schedule goes."""
    try:
        from megatron.core.pipeline_parallel import p2p_communication
    except ImportError:
        return

    def begin(*args: object, **kwargs: object) -> Span | None:
        return session.open_span("p2p", "p2p")

    wrap = in_span(session, begin)
    communicator = getattr(p2p_communication, "P2PCommunicator", None)
    if communicator is not None:
        session.patches.wrap(communicator, "_communicate", wrap)
    else:
        session.patches.wrap_function(p2p_communication, "_communicate", wrap)
