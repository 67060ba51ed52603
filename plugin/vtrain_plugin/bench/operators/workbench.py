"""What builders of operators share: device, model, choices and libraries; and their registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from vtrain_plugin.bench.choices import Choices
from vtrain_plugin.bench.device import BenchDevice
from vtrain_plugin.bench.device_queue import Call
from vtrain_plugin.bench.installed import Installed
from vtrain_plugin.bench.model_operators import ModelSizes
from vtrain_schemas.operators import Operator

if TYPE_CHECKING:
    import torch

Attributes: TypeAlias = dict[str, object]


class UnmeasuredKindError(ValueError):
    """No builder of that kind of operator."""


class Variant(NamedTuple):
    """Something to time. attributes: how it was built, for the column of that name."""

    operator: Operator
    call: Call
    attributes: Attributes


@dataclass(frozen=True)
class Workbench:
    """Where operators are built."""

    device: BenchDevice
    model: ModelSizes
    choices: Choices
    have: Installed

    def tensor(self, operator: Operator, *shape: int, grad: bool = False) -> torch.Tensor:
        """Random numbers in the operator's type."""
        dtype = self.device.dtype(operator.dtype)
        return self.device.torch.randn(*shape, device=self.device.device, dtype=dtype).requires_grad_(grad)

    def forward_and_backward(
        self, operator: Operator, forward: Call, inputs: Sequence[torch.Tensor], attributes: Attributes
    ) -> list[Variant]:
        """A call that returns a tensor or several, and its backward pass over a graph that is kept."""
        torch, made = self.device.torch, forward()
        outputs = made if isinstance(made, tuple) else (made,)
        gradients = [torch.ones_like(output) for output in outputs]

        def backward() -> object:
            return torch.autograd.grad(outputs, inputs, gradients, retain_graph=True)

        return [
            Variant(operator, forward, attributes),
            Variant(replace(operator, phase="backward"), backward, attributes),
        ]


Builder: TypeAlias = Callable[[Workbench, Operator], list[Variant]]
_builders: dict[str, Builder] = {}


def register(kind: str) -> Callable[[Builder], Builder]:
    """Make a builder known for a kind of operator; a decorator. Raises `ValueError` where there is one."""

    def add(build: Builder) -> Builder:
        if _builders.setdefault(kind, build) is not build:
            raise ValueError(f"operators of kind {kind!r} have a builder already")
        return build

    return add


def builder(kind: str) -> Builder:
    """The builder of a kind; raises `UnmeasuredKindError`."""
    if kind not in _builders:
        raise UnmeasuredKindError(f"no microbenchmark of {kind!r}: known are {', '.join(_builders)}")
    return _builders[kind]
