"""What a step does besides the model: gradients, optimizer, and the host's own work."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_schemas.operators.dtypes import dtype_bytes
from vtrain_schemas.operators.operator import Operator
from vtrain_schemas.operators.registry import Family, OperatorKind, register


@dataclass(frozen=True)
class PerElement(OperatorKind):
    """Work on m elements of the gradients or parameters, with fp32 main gradients and Adam."""

    family: Family = Family.MEMORY_BOUND
    bytes_per_element: float = 0.0
    flops_per_element: float = 2.0

    def flops(self, operator: Operator) -> float:
        """A few per element."""
        return self.flops_per_element * operator.m

    def bytes(self, operator: Operator) -> float:
        """A few per element."""
        return self.bytes_per_element * operator.m


@dataclass(frozen=True)
class GradAccumulate(OperatorKind):
    """Addition to the main gradients, apart from the product that made the gradient."""

    family: Family = Family.MEMORY_BOUND

    def bytes(self, operator: Operator) -> float:
        """Gradients kept in fp32 are converted first (2 + 4 bytes), then added (4 + 4 + 4)."""
        size = dtype_bytes(operator.dtype)
        return (18.0 if size == 4 else 3.0 * size) * operator.m


register(
    OperatorKind(
        "microbatch",
        "per-microbatch work outside the model: data, loss scaling, bookkeeping; m tokens",
        Family.CONSTANT,
    )
)
register(
    GradAccumulate(
        "grad_accumulate",
        "addition of m gradient elements of a microbatch to those before, apart from their product",
        kernels=(2, 2),
    )
)
register(PerElement("zero_grad", "reset of m gradient elements", bytes_per_element=4.0))
register(PerElement("grad_prepare", "copy, unscale and finiteness check of m gradient elements", bytes_per_element=8.0))
register(PerElement("grad_norm", "norm of m gradient elements", bytes_per_element=4.0))
register(PerElement("grad_clip", "scaling of m gradient elements", bytes_per_element=8.0))
register(PerElement("optimizer", "parameter update of m elements", bytes_per_element=28.0, flops_per_element=12.0))
register(OperatorKind("step_overhead", "per-step work outside everything else", Family.CONSTANT))
register(
    OperatorKind(
        "overlap_launch",
        "what the host takes beside all else, and the device waits, in a layer of experts that runs with another "
        "microbatch's",
        Family.CONSTANT,
    )
)
