"""Matrix products: linear layers, experts, router."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vtrain_schemas.operators.dtypes import element_bytes
from vtrain_schemas.operators.operator import Operator
from vtrain_schemas.operators.registry import Family, OperatorKind, register


@dataclass(frozen=True)
class MatrixProduct(OperatorKind):
    """[m, k] x [k, n]; its backward pass is two products of the same size."""

    family: Family = Family.MATRIX_PRODUCT

    def flops(self, operator: Operator) -> float:
        """2 m n k for each product."""
        products = 2 if operator.phase == "backward" else 1
        return 2.0 * operator.m * operator.n * operator.k * products

    def bytes(self, operator: Operator) -> float:
        """Both factors and the product, in 16 bits or more; a weight gradient is also added to an fp32 buffer."""
        m, n, k = operator.m, operator.n, operator.k
        size = element_bytes(operator.dtype)
        wide = max(2.0, size)
        weights = self.problems(operator) * k * n
        dgrad = size * (m * n + weights) + wide * m * k
        # Weight gradients are accumulated into an fp32 buffer: read and written once more.
        wgrad = size * (m * k + m * n) + wide * weights + 8.0 * weights
        if operator.phase == "backward":
            return dgrad + wgrad
        return {"dgrad": dgrad, "wgrad": wgrad}.get(operator.phase, size * (m * k + weights) + wide * m * n)

    def saved(self, operator: Operator, dropout: bool, gated: bool) -> dict[str, int]:
        """The input [m, k], in the type of the product."""
        return {"input": round(operator.m * operator.k * element_bytes(operator.dtype))}


@dataclass(frozen=True)
class GroupedProduct(MatrixProduct):
    """`batch` products whose rows add up to m."""

    routed: bool = True

    def problems(self, operator: Operator) -> int:
        """One for each expert."""
        return operator.batch

    def simplest(self, operator: Operator) -> Operator:
        """The product of one expert is a plain one."""
        return replace(operator, kind="gemm") if operator.batch == 1 else operator


@dataclass(frozen=True)
class RouterProduct(MatrixProduct):
    """A product and the choice of experts from its result."""

    def saved(self, operator: Operator, dropout: bool, gated: bool) -> dict[str, int]:
        """The input, and fp32 probabilities [m, n]."""
        return {**super().saved(operator, dropout, gated), "probabilities": 4 * operator.m * operator.n}


# A linear layer's backward has two products.
register(
    MatrixProduct(
        "gemm",
        "matrix multiplication, m x k by k x n (m tokens, n outputs, k inputs on this rank), bias included",
        kernels=(1, 2),
        fusion="layernorm",
    )
)
register(
    GroupedProduct(
        "grouped_gemm",
        "the matrix multiplications of several experts, `batch` experts sharing m tokens",
        kernels=(1, 2),
    )
)
register(
    RouterProduct(
        "router",
        "router of a mixture-of-experts layer: m tokens, n experts, width k",
        kernels=(4, 4),
    )
)
