"""Core attention: fused in one kernel, or as batched products around a softmax."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_schemas.operators.dtypes import dtype_bytes
from vtrain_schemas.operators.operator import Operator
from vtrain_schemas.operators.registry import Family, OperatorKind, register

# Kernels of a call where every product, the softmax and the dropout have their own (forward, backward).
_SEPARATE_KERNELS = (5, 8)


@dataclass(frozen=True)
class Attention(OperatorKind):
    """Scores, softmax and weighted sum over seq_q x seq_kv."""

    family: Family = Family.ATTENTION

    def flops(self, operator: Operator) -> float:
        """Two batched products, twice as many backward.

        A fused causal kernel skips the masked half of the square (Dao, arXiv:2307.08691, section 3.1); separate
        products execute all of it.
        """
        products = 4 if operator.phase == "backward" else 2
        square = 2.0 * _scores(operator) * operator.head_dim * products
        return square / 2 if operator.fused and operator.causal else square

    def bytes(self, operator: Operator) -> float:
        """Queries, keys, values and output (backward 2.5 times that); unfused also the score matrix."""
        q = operator.batch * operator.seq_q * operator.heads * operator.head_dim
        kv = 2 * operator.batch * operator.seq_kv * operator.kv_heads * operator.head_dim
        inputs = dtype_bytes(operator.dtype) * (2.0 * q + kv)
        once = 2.5 * inputs if operator.phase == "backward" else inputs
        return once if operator.fused else once + score_bytes(operator)

    def saved(self, operator: Operator, dropout: bool, gated: bool) -> dict[str, int]:
        """Queries, keys, values, and what the backward pass needs of the scores.

        Fused: the output and an fp32 statistic per row. Unfused: the softmax, with dropout also its mask of one
        byte and its result (Korthikanti et al., arXiv:2205.05198, section 4.1).
        """
        size = dtype_bytes(operator.dtype)
        q = operator.batch * operator.seq_q * operator.heads * operator.head_dim
        kv = operator.batch * operator.seq_kv * operator.kv_heads * operator.head_dim
        inputs = {"query": q * size, "key": kv * size, "value": kv * size}
        if operator.fused:
            return {**inputs, "output": q * size, "statistics": 4 * operator.batch * operator.seq_q * operator.heads}
        scores = _scores(operator)
        if dropout:
            return {**inputs, "softmax": scores * size, "mask": scores, "dropout": scores * size}
        return {**inputs, "softmax": scores * size}

    def variant(self, operator: Operator) -> str:
        """Separate kernels have coefficients of their own."""
        return self.name if operator.fused else f"unfused {self.name}"

    def launches(self, operator: Operator) -> int:
        """Separate kernels are launched one by one."""
        if operator.fused:
            return super().launches(operator)
        forward, backward = _SEPARATE_KERNELS
        return backward if operator.phase == "backward" else forward


def _scores(operator: Operator) -> int:
    """Entries of the score matrix, masked ones included."""
    return operator.batch * operator.heads * operator.seq_q * operator.seq_kv


def score_bytes(operator: Operator) -> float:
    """Traffic of the score matrix of unfused attention, bytes.

    Forward: written by the first product, read and written by softmax and by dropout (with a mask of one byte), read
    by the second product. Backward: the same for the gradient, and the softmax and dropout outputs read once more
    (Megatron's fused scale, mask and softmax).
    """
    size = dtype_bytes(operator.dtype)
    return float(_scores(operator) * (9 * size + 1 if operator.phase == "backward" else 6 * size + 1))


register(
    Attention("attention", "core attention over seq_q x seq_kv, `batch` sequences", kernels=(1, 3), fusion="flash")
)
