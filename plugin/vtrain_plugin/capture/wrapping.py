"""A span around every call of a function of the training stack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vtrain_plugin.capture.patches import Function, Wrapper
from vtrain_plugin.capture.recorder import Span
from vtrain_plugin.capture.session import Session


def in_span(session: Session, begin: Callable[..., Span | None]) -> Wrapper:
    """Wraps a function so that it runs inside the span that `begin` opens.

    begin: gets the arguments of the call; None leaves the call without a span.
    """

    def wrap(original: Function) -> Function:
        def in_its_span(*args: Any, **kwargs: Any) -> Any:
            span = session.guard.run(begin, *args, **kwargs)
            result = original(*args, **kwargs)
            if span is not None:
                session.guard.run(session.close_span, span)
            return result

        return in_its_span

    return wrap
