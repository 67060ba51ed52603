"""The operators of a Mamba2 mixer: its causal convolution and its scan (Dao and Gu 2024, arXiv:2405.21060)."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_schemas.operators.dtypes import dtype_bytes
from vtrain_schemas.operators.elementwise import Streamed
from vtrain_schemas.operators.operator import Operator
from vtrain_schemas.operators.registry import Family, OperatorKind, register

# Bytes of states of chunks in 32 bits.
_WIDE = 4
# Passes over the states of all chunks, in 32 bits and in the type of the inputs, by mamba_ssm's kernels. Forward: each
# chunk's own state is written and read wide, with those before it added written and read narrow. Backward: the states
# again and their gradients are written, both are read and written on the way back, and read for the gradients of the
# inputs, of B and of C.
_STATE_PASSES = {"forward": (2, 2), "backward": (6, 5)}


@dataclass(frozen=True)
class Convolution(Streamed):
    """Each of n channels over the last k tokens."""

    def flops(self, operator: Operator) -> float:
        """A multiply-add for each element of a filter; two more of them backward, after the forward pass again."""
        once = 2.0 * operator.m * operator.n * operator.k
        return 3 * once if operator.phase == "backward" else once


@dataclass(frozen=True)
class ChunkedScan(OperatorKind):
    """State space duality: the block decomposition of arXiv:2405.21060, section 6, in chunks of k tokens.

    `batch` sequences of seq_q tokens; heads of head_dim channels, each with a state of n; kv_heads groups of heads that
    share B and C.
    """

    family: Family = Family.MEMORY_BOUND

    @property
    def matrix_product(self) -> bool:
        """Its FLOPs are those of products, though passes over memory bound its time."""
        return True

    def flops(self, operator: Operator) -> float:
        """The four einsums of listing 1: scores C B of a group in each chunk with the sums that they weigh, states of
        chunks, states of one chunk from those before, and what states add to the output.

        Kernels compute whole squares of a chunk. Backward: each twice, after scores and states again; mamba_ssm also
        makes the product of inputs and output gradients twice, for the gradients of the scores and of the decay.
        """
        scores, states, passing = self._scores(operator), self._states(operator), self._passing(operator)
        sums = 2.0 * _tokens(operator) * operator.heads * operator.k * operator.head_dim
        forward = scores + sums + states + passing + states
        return 2 * forward + scores + states + passing + sums if operator.phase == "backward" else forward

    def bytes(self, operator: Operator) -> float:
        """Inputs and B, C and steps read, the output written, and states of chunks between the kernels.

        Fused: the gate is read, and the output before it is written too. Backward: also their gradients.
        """
        phase = "backward" if operator.phase == "backward" else "forward"
        channels = operator.heads * operator.head_dim
        shared = 2 * operator.kv_heads * operator.n + operator.heads
        per_token = {"forward": 2 * channels + shared, "backward": 3 * channels + 2 * shared}[phase]
        if operator.fused:
            per_token += {"forward": 2, "backward": 3}[phase] * channels
        wide, narrow = _STATE_PASSES[phase]
        size = dtype_bytes(operator.dtype)
        states = _chunks(operator) * channels * operator.n * (wide * _WIDE + narrow * size)
        return float(size * _tokens(operator) * per_token + states)

    def saved(self, operator: Operator, dropout: bool, gated: bool) -> dict[str, int]:
        """Its inputs; with the gate also that, and the output before it. States are computed again."""
        size = dtype_bytes(operator.dtype) * _tokens(operator)
        channels = operator.heads * operator.head_dim
        inputs = {"input": size * (channels + 2 * operator.kv_heads * operator.n + operator.heads)}
        return {**inputs, "gate": size * channels, "ungated": size * channels} if operator.fused else inputs

    @staticmethod
    def _scores(operator: Operator) -> float:
        return 2.0 * _tokens(operator) * operator.kv_heads * operator.k * operator.n

    @staticmethod
    def _states(operator: Operator) -> float:
        return 2.0 * _tokens(operator) * operator.heads * operator.head_dim * operator.n

    @staticmethod
    def _passing(operator: Operator) -> float:
        return 2.0 * _chunks(operator) * operator.heads * operator.head_dim * operator.n


def _tokens(operator: Operator) -> int:
    return operator.batch * operator.seq_q


def _chunks(operator: Operator) -> int:
    return operator.batch * -(-operator.seq_q // max(1, operator.k))


# Forward reads and writes; backward does so again, and reads the input and the output's gradient for the input's.
register(
    Convolution(
        "causal_conv1d",
        "causal convolution and activation of a Mamba mixer, m tokens of n channels, over k tokens each",
        kernels=(1, 2),
        passes=(2.0, 5.0),
    )
)
# Kernels of mamba_ssm's state space duality: steps, states of chunks, their passing, scores, output; backward the
# first four again, and those of the gradients.
register(
    ChunkedScan(
        "chunk_scan",
        "scan of a Mamba2 mixer in chunks of k tokens, `batch` sequences of seq_q, state size n, kv_heads groups",
        kernels=(5, 14),
        fusion="gate",
    )
)
