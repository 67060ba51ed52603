"""Spans of modules, forward and backward.

Forward spans come from forward (pre-)hooks. Backward spans come from plain tensor hooks on the
module's output (its gradient is there: backward begins) and input (its gradient is there: backward
ends). Full backward hooks would add autograd nodes and views, which breaks models that modify
outputs in place or free them, and do not see keyword arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vtrain_plugin.adapters.megatron.classify import operator_of, span_kind
from vtrain_plugin.adapters.megatron.context import ModelContext
from vtrain_plugin.capture.recorder import Span
from vtrain_schemas.operators import Operator


class Hooked:
    """One recorded module (or function) and what is running of it."""

    def __init__(self, path: str, kind: str, module: Any, parent: Hooked | None, layer: int | None) -> None:
        self.path = path
        self.kind = kind
        self.module = module
        self.parent = parent
        self.layer = layer
        self.children: dict[str, Hooked] = {}
        self.last: Operator | None = None
        self.running: Span | None = None  # backward span under way

    def last_of(self, child: str) -> Operator | None:
        """The operator that a child was, last time it ran."""
        hooked = self.children.get(child)
        return hooked.last if hooked is not None else None

    def nearest_running(self) -> Span | None:
        """Backward span under way of the nearest ancestor that has one."""
        ancestor = self.parent
        while ancestor is not None and ancestor.running is None:
            ancestor = ancestor.parent
        return ancestor.running if ancestor is not None else None


class Frame:
    """A forward call under way."""

    __slots__ = ("args", "backward", "hooked", "span", "tensor_in")

    def __init__(self, hooked: Hooked, span: Span, tensor_in: Any, args: tuple[Any, ...]) -> None:
        self.hooked = hooked
        self.span = span
        self.tensor_in = tensor_in
        self.args = args
        self.backward: Span | None = None


class ModuleHooks:
    """Hooks of all model chunks."""

    def __init__(self, session: Any, context: ModelContext) -> None:
        import torch

        self._torch = torch
        self.session = session
        self.context = context
        self.frames: list[Frame] = []
        self._handles: list[Any] = []
        self._running: list[Hooked] = []

    # -- installation ----------------------------------------------------------------------

    def install(self, model: Any, chunk: int) -> None:
        """Hook the modules of one model chunk."""
        guard = self.session.guard
        found: dict[str, Hooked] = {}
        for raw_path, module in model.named_modules():
            path = ".".join(p for p in raw_path.split(".") if p != "module")
            kind = span_kind(path, module, self.session.settings.operators)
            if kind is None or path in found:
                continue
            parent = _nearest(found, path)
            layer = getattr(module, "layer_number", None) if kind == "transformer_layer" else None
            if layer is None and parent is not None:
                layer = parent.layer
            hooked = Hooked(path, kind, module, parent, layer)
            found[path] = hooked
            if parent is not None:
                parent.children[path[len(parent.path) + 1 :]] = hooked
            self._handles.append(
                module.register_forward_pre_hook(
                    lambda m, a, k, h=hooked: guard.run(self._before, h, a, k), with_kwargs=True
                )
            )
            self._handles.append(
                module.register_forward_hook(
                    lambda m, a, k, o, h=hooked: guard.run(self._after, h, o), with_kwargs=True
                )
            )
            if kind == "embedding":
                self._end_with_weight_gradient(hooked)
        type_name = type(model).__name__
        if not any(h.kind == "transformer_layer" for h in found.values()):
            raise RuntimeError(f"no transformer layer of Megatron-Core found in the model ({type_name})")
        if any(type(h.module).__name__.startswith("TE") for h in found.values()):
            self.context.transformer_impl = "transformer_engine"

    def _end_with_weight_gradient(self, hooked: Hooked) -> None:
        """An embedding has no input gradient: its backward ends when its weight gradient is there."""
        weight = next((p for p in hooked.module.parameters() if p.requires_grad), None)
        if weight is None:
            return
        end = self._end_hook(hooked)
        self._handles.append(weight.register_post_accumulate_grad_hook(lambda p: end(None, p)))

    def remove(self) -> None:
        """Take every hook out of the model."""
        while self._handles:
            self._handles.pop().remove()
        self.frames = []

    # -- forward ---------------------------------------------------------------------------

    def _before(self, hooked: Hooked, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recorder = self.session.recorder
        state = self.session.microbatches
        if recorder is None or not recorder.recording or not state.direction:
            return
        tensor = _first_tensor(args, kwargs)
        if hooked.kind == "transformer_layer" and tensor is not None:
            self.context.see_hidden_states(tuple(tensor.shape))
        self.open_forward(hooked, tensor, (*args, *kwargs.values()))

    def open_forward(self, hooked: Hooked, tensor: Any, args: tuple[Any, ...]) -> Frame:
        """Begin the forward span of a module, and prepare its backward twin."""
        recorder, state = self.session.recorder, self.session.microbatches
        phase = "recompute" if state.direction == "backward" else "forward"
        parent = None
        if phase == "recompute" and not self.frames:
            parent = hooked.nearest_running()
        span = self._span(hooked, phase, parent)
        frame = Frame(hooked, span, tensor, args)
        self.frames.append(frame)
        if self._torch.is_grad_enabled():
            frame.backward = self._span(hooked, "backward", None)
            frame.backward.parent = None
            if tensor is not None and tensor.requires_grad and tensor.is_floating_point():
                end = self._end_hook(hooked)
                twin = frame.backward
                tensor.register_hook(lambda g: end(twin, g))
        recorder.open(span)
        return frame

    def _span(self, hooked: Hooked, phase: str, parent: Span | None) -> Span:
        state = self.session.microbatches
        span: Span = self.session.recorder.new_span(
            hooked.path,
            hooked.kind,
            phase,
            parent=parent,
            layer=hooked.layer,
            microbatch=state.microbatch,
            chunk=state.chunk,
        )
        return span

    def _after(self, hooked: Hooked, output: Any) -> None:
        recorder = self.session.recorder
        # A call that raised (and was caught by the model) leaves frames behind: drop them.
        while self.frames and self.frames[-1].hooked is not hooked:
            if not any(f.hooked is hooked for f in self.frames):
                return
            recorder.close(self.frames.pop().span)
        if self.frames:
            self.close_forward(self.frames[-1], _first_tensor((output,), {}))

    def close_forward(self, frame: Frame, output: Any) -> None:
        """End the forward span; its backward twin begins when the output's gradient is there."""
        self.session.recorder.close(frame.span)
        self.frames.pop()
        hooked, twin = frame.hooked, frame.backward
        operator = None
        if self.session.settings.operators:
            operator = operator_of(hooked.kind, hooked, frame.tensor_in, output, frame.args, self.context)
        if operator is not None:
            hooked.last = operator
            phase = "forward" if frame.span.phase == "forward" else "recompute"
            frame.span.operator = replace(operator, phase=phase)
            frame.span.remainder = operator_name(hooked, operator)
        if twin is None:
            return
        if operator is not None:
            twin.operator = replace(operator, phase="backward")
            twin.remainder = frame.span.remainder
        if output is not None and output.requires_grad:
            guard = self.session.guard
            output.register_hook(lambda g: guard.run(self._begin_backward, hooked, twin))

    # -- backward --------------------------------------------------------------------------

    def _begin_backward(self, hooked: Hooked, twin: Span) -> None:
        recorder = self.session.recorder
        if recorder is None or not recorder.recording or twin.begin is not None:
            return
        twin.parent = hooked.nearest_running() or recorder.current()
        hooked.running = twin
        self._running.append(hooked)
        recorder.start(twin)

    def _end_hook(self, hooked: Hooked) -> Callable[[Span | None, Any], None]:
        guard = self.session.guard
        return lambda twin, gradient: guard.run(self._end_backward, hooked, twin)

    def _end_backward(self, hooked: Hooked, twin: Span | None) -> None:
        span = hooked.running
        if span is None or (twin is not None and span is not twin):
            return
        # A child whose output is its parent's began before it: the parent is known only now.
        ancestor = hooked.nearest_running()
        if ancestor is not None and (
            span.parent is None or span.parent.kind == "backward_step" or _encloses(span.parent.name, ancestor.name)
        ):
            span.parent = ancestor
        hooked.running = None
        self._running.remove(hooked)
        if self.session.recorder is not None:
            self.session.recorder.stop(span)

    def finish_backward(self) -> None:
        """End what is still running: backward spans whose end no hook could see."""
        for hooked in list(self._running):
            self._end_backward(hooked, None)

    def innermost(self) -> Span | None:
        """The backward span under way that is deepest in the model: where communication happens.

        Not the one that began last: a module whose output is its parent's begins before it.
        """
        if not self._running:
            return None
        return max(self._running, key=lambda hooked: hooked.path.count(".")).running


def operator_name(hooked: Hooked, operator: Operator) -> str:
    """Name of the operator: the module's own, or its kind for what remains of a block."""
    if hooked.kind in ("transformer_layer", "self_attention", "mlp", "moe"):
        return operator.kind
    return hooked.path.rpartition(".")[2]


def _encloses(outer: str, inner: str) -> bool:
    return inner != outer and inner.startswith(outer + ".")


def _nearest(found: dict[str, Hooked], path: str) -> Hooked | None:
    while "." in path:
        path = path.rpartition(".")[0]
        if path in found:
            return found[path]
    return None


def _first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    for value in (*args, *kwargs.values()):
        if hasattr(value, "register_hook"):
            return value
        if isinstance(value, (tuple, list)):
            for item in value:
                if hasattr(item, "register_hook"):
                    return item
    return None
