"""Kinds that stream a tensor of m x n elements: normalisation, activation, residuals, permutation."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_schemas.operators.dtypes import dtype_bytes
from vtrain_schemas.operators.operator import Operator
from vtrain_schemas.operators.registry import Family, OperatorKind, register


@dataclass(frozen=True)
class Streamed(OperatorKind):
    """m x n elements, read and written a few times."""

    family: Family = Family.MEMORY_BOUND
    passes: tuple[float, float] = (2.0, 2.0)
    """Passes over memory per element, forward and backward."""
    keeps_input: bool = False
    """Whether the backward pass needs the input [m, n]."""

    def flops(self, operator: Operator) -> float:
        """Ten per element backward, five forward: they never decide."""
        return operator.m * operator.n * (10.0 if operator.phase == "backward" else 5.0)

    def bytes(self, operator: Operator) -> float:
        """Passes over the tensor."""
        forward, backward = self.passes
        passes = backward if operator.phase == "backward" else forward
        return dtype_bytes(operator.dtype) * operator.m * operator.n * passes

    def saved(self, operator: Operator, dropout: bool, gated: bool) -> dict[str, int]:
        """The input, where the backward pass needs it."""
        return {"input": _tensor(operator)} if self.keeps_input else {}


@dataclass(frozen=True)
class Activation(Streamed):
    """n columns after the gate."""

    def saved(self, operator: Operator, dropout: bool, gated: bool) -> dict[str, int]:
        """The input, with a gate both halves of it."""
        return {"input": (2 if gated else 1) * _tensor(operator)}


@dataclass(frozen=True)
class Residuals(Streamed):
    """Both residual adds of a layer."""

    def saved(self, operator: Operator, dropout: bool, gated: bool) -> dict[str, int]:
        """The masks of both dropouts, a byte per element."""
        return {"masks": 2 * operator.m * operator.n} if dropout else {}


@dataclass(frozen=True)
class Permutation(Streamed):
    """Rows to the experts and back."""

    def saved(self, operator: Operator, dropout: bool, gated: bool) -> dict[str, int]:
        """The experts' outputs, which are weighted and summed on the way back."""
        return {"expert_outputs": _tensor(operator)}


@dataclass(frozen=True)
class ExpertBias(Streamed):
    """k experts one after the other."""

    def launches(self, operator: Operator) -> int:
        """A product and a sum for each expert, and two copies of all; backward products, sums and conversions."""
        return 8 * operator.k + 2 if operator.phase == "backward" else 2 * operator.k + 3


def _tensor(operator: Operator) -> int:
    return operator.m * operator.n * dtype_bytes(operator.dtype)


# Kernels: counted in Megatron-Core with fused bias, GELU, dropout and softmax.
register(
    Streamed(
        "norm", "layer or RMS normalisation of m tokens of width n", kernels=(1, 2), passes=(2.0, 4.0), keeps_input=True
    )
)
register(
    Streamed("rope", "split of the fused QKV projection and rotary embedding, m tokens of width n", kernels=(3, 3))
)
register(
    Activation(
        "activation",
        "bias + activation (GELU, or SwiGLU with its gate), m tokens of width n after the gate",
        kernels=(1, 1),
        passes=(2.0, 3.0),
    )
)
register(
    Residuals(
        "bias_dropout_add",
        "bias + dropout + residual adds of one layer, m tokens of width n",
        kernels=(4, 4),
        passes=(6.0, 4.0),
    )
)
# To the order of ranks, to that of experts, and back: of 8 copies of a token, one is read and one written at both ends.
PERMUTE_PASSES = 6.25
register(
    Permutation(
        "permute",
        "permutation of tokens to experts and back, m tokens of width n",
        kernels=(4, 4),
        passes=(PERMUTE_PASSES, PERMUTE_PASSES),
    )
)
register(
    Streamed("transpose", "m tokens of width n, from one order of sequence and batch to the other", kernels=(1, 1))
)
register(Streamed("cast", "conversion of m tokens of width n to 8 bits, and its transpose", kernels=(1, 1)))
# Each expert's rows plus its bias times their fp32 probabilities (4 bytes written; 2 + 4 read, 4 written), put together
# (4 + 4) and converted (4 + 2); backward the same ways, and sums for the gradients of bias and probabilities.
register(
    ExpertBias(
        "expert_bias",
        "bias of each of k experts, weighted and added to its rows: m tokens of width n",
        kernels=(5, 10),
        passes=(14.0, 20.0),
        like="norm",
    )
)
# Each half is clamped (2 bytes read, 2 written) and both are put together (2 + 2). Backward: masks of where a half was
# within its bounds (one comparison of the gate, 3; two and their conjunction of the other half, 9), the gradient where
# it was (1 + 2 read, 2 written) and both put together (2 + 2).
register(
    Streamed(
        "clamp",
        "bounds of both halves of a gated activation's input, in kernels of their own: m tokens of width n",
        kernels=(3, 7),
        passes=(4.0, 7.5),
        keeps_input=True,
        like="norm",
    )
)
register(
    Streamed(
        "pad_rows",
        "rows of each expert up to a multiple of what narrow products take, or back: m tokens of width n",
        kernels=(1, 1),
        like="transpose",
    )
)
# Megatron-Core's `_apply_rotary_pos_emb_bshd` on [m, n] of 2-byte elements. Forward, bytes per element: product with
# the cosine 4, sign of one half 2, both halves together 4, product with the sine 4, sum 6, end of the slice 4.
# Backward: products 8, halves 6, sum of both ways 6, both slices and their sum 14. The fused kernel's 4 are `rope`'s.
register(
    Streamed(
        "rotary_steps",
        "rotary embedding kernel by kernel: what passes over memory beyond one fused kernel, m tokens of width n",
        kernels=(12, 24),
        passes=(10.0, 15.0),
        like="rope",
    )
)
# Read once, for the scale of a whole tensor.
register(
    Streamed("amax", "largest magnitude among m tokens of width n, for their scale", kernels=(1, 1), passes=(1.0, 1.0))
)
# Read for the row-wise and for the rotated column-wise copy, each half a byte and its scales.
register(
    Streamed(
        "cast_hadamard",
        "conversion of m tokens of width n to 4 bits, and of their Hadamard transform by columns",
        kernels=(2, 2),
        passes=(2.0 + 0.5625, 2.0 + 0.5625),
    )
)
