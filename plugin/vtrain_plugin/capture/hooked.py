"""Recorded modules and their calls: what is known of each while hooks run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vtrain_plugin.capture.backward_ends import Input
from vtrain_plugin.capture.patches import Args
from vtrain_plugin.capture.recorder import Span
from vtrain_schemas.operators import Operator

if TYPE_CHECKING:
    import torch


class Hooked:
    """One recorded module (or function, without a module) and what is running of it."""

    def __init__(
        self, path: str, kind: str, module: torch.nn.Module | None, parent: Hooked | None, layer: int | None
    ) -> None:
        self.path = path
        self.kind = kind
        self.module = module
        self.parent = parent
        self.layer = layer
        self.children: dict[str, Hooked] = {}
        self.communication_role = ""
        self.last: Operator | None = None
        self.running: Span | None = None  # backward span under way
        self.ended: Span | None = None  # the last one that is over
        # Of its backward operator: without the gradient of the weights where that is computed apart.
        self.backward_phase = "backward"

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


class ModuleCall:
    """One call of a recorded module.

    args: positional and keyword arguments, in order. tensor_in: the first tensor among them that may have a gradient,
    else the first one. kind: the module's span kind.
    """

    __slots__ = ("args", "hooked", "tensor_in")

    def __init__(self, hooked: Hooked, tensor_in: torch.Tensor | None, args: Args) -> None:
        self.hooked = hooked
        self.tensor_in = tensor_in
        self.args = args

    @property
    def kind(self) -> str:
        return self.hooked.kind


class Frame:
    """A forward call under way, and the span of its backward pass."""

    __slots__ = ("backward", "call", "input", "span")

    def __init__(self, call: ModuleCall, span: Span) -> None:
        self.call = call
        self.span = span
        self.backward: Span | None = None
        self.input: Input | None = None


def is_compiled(module: torch.nn.Module) -> bool:
    """Whether calls of a module run what torch.compile made: ``torch.compile(module)`` or ``module.compile()``."""
    return module._compiled_call_impl is not None or hasattr(module, "_orig_mod")


def weight_of(hooked: Hooked) -> Input | None:
    """What stands for the input of an embedding, which has no gradient: its backward pass is over with its weight's."""
    if hooked.kind != "embedding" or hooked.module is None:
        return None
    weight = next((p for p in hooked.module.parameters() if p.requires_grad), None)
    return Input(weight, None) if weight is not None else None


def activation(values: Sequence[object]) -> torch.Tensor | None:
    """The first tensor among values that may have a gradient; else the first one."""
    for value in values:
        tensor = first_tensor((value,))
        if tensor is not None and tensor.is_floating_point():
            return tensor
    return first_tensor(values)


def first_tensor(values: Sequence[object]) -> torch.Tensor | None:
    """The first tensor among values, or in a tuple or list that is one of them."""
    for value in values:
        if hasattr(value, "register_hook"):
            return value
        if isinstance(value, (tuple, list)):
            for item in value:
                if hasattr(item, "register_hook"):
                    return item
    return None
