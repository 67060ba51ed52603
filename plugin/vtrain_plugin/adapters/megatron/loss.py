"""The loss: a method of Megatron-Core's LanguageModule, not a module of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vtrain_plugin.adapters.megatron.classify import rows_and_width
from vtrain_plugin.adapters.megatron.context import dtype_name
from vtrain_plugin.adapters.megatron.modules import Hooked, ModuleHooks
from vtrain_schemas.operators import Operator


def install(session: Any, modules: ModuleHooks) -> None:
    """Record ``compute_language_model_loss(labels, logits)`` forward and backward."""
    try:
        from megatron.core.models.common.language_module import language_module
    except ImportError:
        return
    hooked = Hooked("loss", "loss", None, None, None)

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def compute_language_model_loss(self: Any, labels: Any, logits: Any, *args: Any, **kwargs: Any) -> Any:
            frame = session.guard.run(_before, session, modules, hooked, logits)
            result = original(self, labels, logits, *args, **kwargs)
            if frame is not None:
                session.guard.run(_after, session, modules, frame, logits, result)
            return result

        return compute_language_model_loss

    session.patches.wrap(language_module.LanguageModule, "compute_language_model_loss", wrap)


def _before(session: Any, modules: ModuleHooks, hooked: Hooked, logits: Any) -> Any:
    recorder = session.recorder
    if recorder is None or not recorder.recording or not session.microbatches.direction:
        return None
    return modules.open_forward(hooked, logits, ())


def _after(session: Any, modules: ModuleHooks, frame: Any, logits: Any, result: Any) -> None:
    modules.close_forward(frame, result)
    if session.settings.operators:
        m, n = rows_and_width(logits)
        for span in (frame.span, frame.backward):
            if span is not None:
                span.operator = Operator("loss", span.phase, m, n, dtype=dtype_name(logits.dtype))
                span.remainder = "loss"
