"""Spans of modules, forward and backward.

Forward spans come from forward (pre-)hooks. Backward spans come from plain tensor hooks on the
module's output (its gradient is there: backward begins) and input (its gradient is there: backward
ends). Full backward hooks would add autograd nodes and views, which breaks models that modify
outputs in place or free them, and do not see keyword arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from vtrain_plugin.capture.backward_ends import BackwardEnds, Input
from vtrain_plugin.capture.framework import ModuleRules
from vtrain_plugin.capture.guard import report
from vtrain_plugin.capture.hooked import Frame, Hooked, ModuleCall, activation, first_tensor, is_compiled, weight_of
from vtrain_plugin.capture.patches import Args, Kwargs
from vtrain_plugin.capture.recorder import Recorder, Span
from vtrain_schemas.operators import Operator

if TYPE_CHECKING:
    import torch

    from vtrain_plugin.capture.session import Session

# Kinds of modules whose operator is what remains of them beside their parts.
_BLOCKS = ("transformer_layer", "mamba_layer", "mtp_layer", "self_attention", "mixer", "mlp", "moe")


class Handle(Protocol):
    """What is used of ``torch.utils.hooks.RemovableHandle``."""

    def remove(self) -> None: ...


class ModuleHooks:
    """Hooks of all model chunks.

    allowed: False where modules must get none: nothing inside a microbatch is recorded then.
    """

    def __init__(self, session: Session, rules: ModuleRules) -> None:
        import torch

        self._torch = torch
        self._session = session
        self._rules = rules
        self.allowed = True
        self._frames: list[Frame] = []
        self._handles: list[Handle] = []
        self._running: list[Hooked] = []
        self._ends = BackwardEnds(session.guard)

    # -- installation ----------------------------------------------------------------------

    def install(self, model: torch.nn.Module) -> Sequence[Hooked]:
        """Hook the modules of one model chunk; what was hooked, outer modules first.

        Nothing inside a module that torch.compile made one program of: hooks would have it compiled again.
        """
        hooked: dict[str, Hooked] = {}
        unseen: list[str] = []
        for raw_path, module in model.named_modules():
            if raw_path.startswith(tuple(unseen)):
                continue
            if is_compiled(module):
                unseen.append(raw_path + "." if raw_path else "")
                if module._compiled_call_impl is not None:
                    continue
            # Wrappers (data parallelism, mixed precision) call what they wrap "module".
            path = ".".join(p for p in raw_path.split(".") if p != "module")
            kind = self._rules.span_kind(path, getattr(module, "_orig_mod", module), self._session.settings.operators)
            if kind is not None and path not in hooked:
                hooked[path] = self._hook(path, kind, module, _nearest(hooked, path))
        if unseen and self._session.speaks:
            report(f"{len(unseen)} modules are compiled by torch.compile: nothing inside them is recorded")
        return list(hooked.values())

    def _hook(self, path: str, kind: str, module: torch.nn.Module, parent: Hooked | None) -> Hooked:
        layer = parent.layer if parent is not None else None
        if layer is None:
            layer = self._rules.layer_number(module)
        hooked = Hooked(path, kind, module, parent, layer)
        hooked.communication_role = self._rules.communication_inside(module)
        if parent is not None:
            parent.children[path[len(parent.path) + 1 :]] = hooked
        if self._rules.has_delayed_weight_gradient(module):
            hooked.backward_phase = "dgrad"
        guard = self._session.guard

        compiling = self._torch.compiler.is_compiling

        # A module from which hooks are taken out while it runs them calls the others without keyword arguments.
        # What torch.compile traces is as without hooks.
        def before(module: torch.nn.Module, *call: Any) -> None:
            if not compiling():
                guard.run(self._before, hooked, *call)

        def after(module: torch.nn.Module, *call: Any) -> None:
            if not compiling():
                guard.run(self._after, hooked, call[-1])

        self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        self._handles.append(module.register_forward_hook(after, with_kwargs=True))
        if kind == "embedding":
            self._end_with_weight_gradient(hooked, module)
        return hooked

    def _end_with_weight_gradient(self, hooked: Hooked, module: torch.nn.Module) -> None:
        """An embedding has no input gradient: its backward ends when its weight gradient is there."""
        weight = next((p for p in module.parameters() if p.requires_grad), None)
        if weight is None:
            return
        guard = self._session.guard
        self._handles.append(
            weight.register_post_accumulate_grad_hook(lambda p: guard.run(self._end_backward, hooked, None))
        )

    def remove(self) -> None:
        """Take every hook out of the model."""
        while self._handles:
            self._handles.pop().remove()
        self._frames = []

    # -- forward ---------------------------------------------------------------------------

    def _before(self, hooked: Hooked, args: Args, kwargs: Kwargs | None = None) -> None:
        recorder = self._session.recording()
        if recorder is None or not self._session.position.direction:
            return
        values = (*args, *(kwargs or {}).values())
        call = ModuleCall(hooked, activation(values), values)
        self._rules.before_module(call)
        self._open_forward(recorder, call)

    def open_function(self, hooked: Hooked, tensor: torch.Tensor) -> Frame | None:
        """Begin the forward span of a function that is no module; None outside a microbatch."""
        recorder = self._session.recording()
        if recorder is None or not self.allowed or not self._session.position.direction:
            return None
        return self._open_forward(recorder, ModuleCall(hooked, tensor, ()))

    def _open_forward(self, recorder: Recorder, call: ModuleCall) -> Frame:
        """Begin the forward span of a module, and prepare its backward twin."""
        hooked, tensor = call.hooked, call.tensor_in
        phase = "recompute" if self._session.position.direction == "backward" else "forward"
        self._ends.flush()
        parent = None
        if phase == "recompute" and not self._frames:
            parent = hooked.nearest_running()
        span = self._span(recorder, hooked, phase, parent)
        frame = Frame(call, span)
        self._frames.append(frame)
        if self._torch.is_grad_enabled():
            twin = self._span(recorder, hooked, "backward", None)
            twin.parent = None
            frame.backward = twin
            if tensor is not None and tensor.requires_grad and tensor.is_floating_point():
                guard = self._session.guard
                handle = tensor.register_hook(lambda g: guard.run(self._reach_input, hooked, twin))
                frame.input = Input(tensor, handle)
        recorder.open(span)
        return frame

    def _span(self, recorder: Recorder, hooked: Hooked, phase: str, parent: Span | None) -> Span:
        position = self._session.position
        return recorder.new_span(
            hooked.path,
            hooked.kind,
            phase,
            parent=parent,
            layer=hooked.layer,
            microbatch=position.microbatch,
            chunk=position.chunk,
        )

    def _after(self, hooked: Hooked, output: object) -> None:
        recorder = self._session.recorder
        # A call that raised (and was caught by the model) leaves frames behind: drop them.
        while self._frames and self._frames[-1].call.hooked is not hooked:
            if recorder is None or not any(f.call.hooked is hooked for f in self._frames):
                return
            recorder.close(self._frames.pop().span)
        if self._frames:
            self.close_forward(self._frames[-1], first_tensor((output,)))

    def close_forward(self, frame: Frame, output: torch.Tensor | None) -> None:
        """End the forward span; its backward twin begins when the output's gradient is there."""
        session = self._session
        session.close_span(frame.span)
        self._frames.pop()
        hooked, twin = frame.call.hooked, frame.backward
        if session.settings.operators:
            operator = self._rules.operator_of(frame.call, output)
            if operator is not None:
                self._describe(frame, operator)
        if twin is not None and output is not None and output.requires_grad:
            guard = session.guard
            output.register_hook(lambda g: guard.run(self._begin_backward, hooked, twin))
            given = frame.input if frame.input is not None else weight_of(hooked)
            if given is not None:
                self._watch(given, output, hooked, twin)

    def _watch(self, given: Input, output: torch.Tensor, hooked: Hooked, twin: Span) -> None:
        """Have the backward span end with the module's own work, where the input's gradient comes later."""

        def end() -> None:
            self._end_backward(hooked, twin)

        depth = hooked.path.count(".")
        if hooked.children:
            parent = hooked.parent.path if hooked.parent is not None else ""
            self._ends.watch_block(given, output, parent, depth, end)
        else:
            self._ends.watch_operator(given, output, depth, end)

    def _describe(self, frame: Frame, operator: Operator) -> None:
        """Say which operator the forward span and its backward twin are."""
        hooked = frame.call.hooked
        hooked.last = operator
        phase = "forward" if frame.span.phase == "forward" else "recompute"
        frame.span.operator = in_phase(operator, phase)
        frame.span.remainder = operator_name(hooked, operator)
        frame.span.communication_role = hooked.communication_role
        if frame.backward is not None:
            frame.backward.operator = in_phase(operator, hooked.backward_phase)
            frame.backward.remainder = frame.span.remainder
            frame.backward.communication_role = hooked.communication_role

    # -- backward --------------------------------------------------------------------------

    def _begin_backward(self, hooked: Hooked, twin: Span) -> None:
        self._ends.flush()
        recorder = self._session.recording()
        if recorder is None or twin.begin is not None:
            return
        # A module that ran twice, and whose first end no hook has seen.
        self._end_backward(hooked, None)
        twin.parent = hooked.nearest_running() or recorder.current()
        hooked.running = twin
        self._running.append(hooked)
        recorder.start(twin)

    def _reach_input(self, hooked: Hooked, twin: Span) -> None:
        self._ends.flush()
        self._end_backward(hooked, twin)

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
        hooked.running, hooked.ended = None, span
        self._running.remove(hooked)
        if self._session.recorder is not None:
            self._session.recorder.stop(span)

    def finish_backward(self) -> None:
        """End what is still running: backward spans whose end no hook could see."""
        self._ends.flush()
        self._ends.forget()
        for hooked in list(self._running):
            self._end_backward(hooked, None)

    def innermost(self) -> Span | None:
        """The backward span under way that is deepest in the model: where communication happens.

        Not the one that began last: a module whose output is its parent's begins before it.
        """
        self._ends.flush()
        if not self._running:
            return None
        return max(self._running, key=lambda hooked: hooked.path.count(".")).running


@lru_cache(maxsize=4096)
def in_phase(operator: Operator, phase: str) -> Operator:
    """The same operator in another phase: microbatches repeat the same ones."""
    return replace(operator, phase=phase)


def operator_name(hooked: Hooked, operator: Operator) -> str:
    """Name of the operator: the module's own, or its kind for what remains of a block."""
    if hooked.kind in _BLOCKS:
        return operator.kind
    return hooked.path.rpartition(".")[2]


def _encloses(outer: str, inner: str) -> bool:
    return inner != outer and inner.startswith(outer + ".")


def _nearest(hooked: dict[str, Hooked], path: str) -> Hooked | None:
    while "." in path:
        path = path.rpartition(".")[0]
        if path in hooked:
            return hooked[path]
    return None
