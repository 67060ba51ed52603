"""The loss: a method of Megatron-Core's LanguageModule, not a module of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vtrain_plugin.capture.hooked import Frame, Hooked
from vtrain_plugin.capture.patches import Args, Function, Kwargs
from vtrain_plugin.capture.session import Session
from vtrain_plugin.capture.tensors import dtype_name, rows_and_width
from vtrain_schemas.operators import Operator

if TYPE_CHECKING:
    import torch


def install(session: Session) -> None:
    """Record ``compute_language_model_loss(labels, logits)`` forward and backward."""
    try:
        from megatron.core.models.common.language_module import language_module
    except ImportError:
        return
    hooked = Hooked("loss", "loss", None, None, None)

    def begin(args: Args, kwargs: Kwargs) -> tuple[Frame, torch.Tensor] | None:
        if session.modules is None:
            return None
        logits: torch.Tensor = kwargs["logits"] if "logits" in kwargs else args[2]
        frame = session.modules.open_function(hooked, logits)
        return (frame, logits) if frame is not None else None

    def wrap(original: Function) -> Function:
        def compute_language_model_loss(*args: Any, **kwargs: Any) -> Any:
            begun = session.guard.run(begin, args, kwargs)
            result = original(*args, **kwargs)
            if begun is not None:
                session.guard.run(_end, session, *begun, result)
            return result

        return compute_language_model_loss

    session.patches.wrap(language_module.LanguageModule, "compute_language_model_loss", wrap)


def _end(session: Session, frame: Frame, logits: torch.Tensor, result: torch.Tensor) -> None:
    if session.modules is None:
        return
    session.modules.close_forward(frame, result)
    if not session.settings.operators:
        return
    m, n = rows_and_width(logits)
    for span in (frame.span, frame.backward):
        if span is not None:
            span.operator = Operator("loss", span.phase, m, n, dtype=dtype_name(logits.dtype))
            span.remainder = "loss"
