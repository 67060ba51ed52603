"""Both ends of the model: embedding look-up and loss."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_schemas.operators.dtypes import dtype_bytes
from vtrain_schemas.operators.operator import Operator
from vtrain_schemas.operators.registry import Family, OperatorKind, register


@dataclass(frozen=True)
class Embedding(OperatorKind):
    """m rows of width n from a table of k rows."""

    family: Family = Family.MEMORY_BOUND

    def bytes(self, operator: Operator) -> float:
        """The rows, read and written; backward also the dense gradient of the table."""
        rows = 2.0 * dtype_bytes(operator.dtype) * operator.m * operator.n
        # A dense weight gradient covers the whole table and is then accumulated.
        table = 12.0 * operator.k * operator.n if operator.phase == "backward" else 0.0
        return rows + table

    def saved(self, operator: Operator, dropout: bool, gated: bool) -> dict[str, int]:
        """The token ids."""
        return {"ids": operator.m * dtype_bytes("int64")}


@dataclass(frozen=True)
class Loss(OperatorKind):
    """Cross entropy in fp32. fused: one kernel, with the softmax computed as it goes (Milakov, Gimelshein,
    arXiv:1805.02867), which leaves the gradient in place of the logits (Transformer Engine's)."""

    family: Family = Family.MEMORY_BOUND

    def flops(self, operator: Operator) -> float:
        """Maximum, difference, exponential, sum and logarithm; backward a product and a difference."""
        return operator.m * operator.n * (2.0 if operator.phase == "backward" else 5.0)

    def bytes(self, operator: Operator) -> float:
        """The logits in their type, and passes over their fp32 copy; fused: two passes over the logits, then the
        gradient, which is scaled in the backward pass."""
        if operator.fused:
            passes = 2.0 if operator.phase == "backward" else 3.0
            return operator.m * operator.n * dtype_bytes(operator.dtype) * passes
        passes = 1.0 if operator.phase == "backward" else 3.0
        return operator.m * operator.n * (dtype_bytes(operator.dtype) + 4.0 * passes)

    def saved(self, operator: Operator, dropout: bool, gated: bool) -> dict[str, int]:
        """The softmax in fp32; fused: the gradient, in the place of the logits."""
        if operator.fused:
            return {"gradient": dtype_bytes(operator.dtype) * operator.m * operator.n}
        return {"softmax": 4 * operator.m * operator.n}


register(
    Embedding(
        "embedding",
        "embedding look-up (and its weight gradient), m tokens of width n from a table of k rows",
        kernels=(3, 2),
    )
)
register(Loss("loss", "cross entropy over n vocabulary entries of m tokens", kernels=(8, 2), fusion="one kernel"))
