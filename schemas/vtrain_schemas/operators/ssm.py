"""The operators of layers that carry a state: causal convolution, scan of Mamba2 (Dao and Gu 2024, arXiv:2405.21060),
gated delta rule (Yang et al. 2024, arXiv:2412.06464)."""

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


# Bytes of the inverse of a chunk's matrix and of what it is made from, for each token and place of the chunk: the
# matrix written and read in 32 bits, its inverse written and read in 16.
_INVERSE = 2 * 4 + 2 * 2


@dataclass(frozen=True)
class DeltaRule(OperatorKind):
    """The gated delta rule in chunks of k tokens with the WY form of a chunk's updates (arXiv:2412.06464, section 3.3;
    arXiv:2406.06484, section 3).

    `batch` sequences of seq_q tokens; heads of head_dim values, each with keys of n channels and a state of n x
    head_dim. Heads that share a key have copies of it.
    """

    family: Family = Family.MEMORY_BOUND

    @property
    def matrix_product(self) -> bool:
        """Its FLOPs are those of products, though passes over memory bound its time."""
        return True

    def flops(self, operator: Operator) -> float:
        """For each token of a head and k tokens of a chunk: products of keys with keys and of queries with keys, the
        inverse of a triangular matrix times keys and values, scores times values (2 k each channel), the inverse itself
        (k^2 / 3 multiply-adds), and three products with the state. Backward: each twice, after the inverse's products
        and the states again."""
        n, chunk, values = operator.n, operator.k, operator.head_dim
        within = 2.0 * chunk * (3 * n + 2 * values)
        inverse, state = 2.0 * chunk**2 / 3, 2.0 * n * values
        again = 2.0 * chunk * (n + values) + 2 * state
        each = 2 * (within + 3 * state) + again if operator.phase == "backward" else within + inverse + 3 * state
        return _tokens(operator) * operator.heads * each

    def bytes(self, operator: Operator) -> float:
        """Passes of the kernels of flash-linear-attention over queries and keys, values, states and inverses.

        Forward, keys are read for their products; keys and values are read and written times the inverse; keys,
        weighted keys and values make the states; queries, keys, values and states the output. Backward reads these
        again and writes as many gradients.
        """
        n, chunk, values = operator.n, operator.k, operator.head_dim
        state = n * values / max(1, chunk)
        size = dtype_bytes(operator.dtype)
        forward = size * (7 * n + 6 * values + 2 * state) + _INVERSE * chunk
        # Weighted keys and values, and states, again; then three kernels with the gradients of all that they read.
        again = size * (4 * n + 4 * values + state)
        backward = again + size * (10 * n + 9 * values + 4 * state) + _INVERSE * chunk
        each = backward if operator.phase == "backward" else forward
        return float(_tokens(operator) * operator.heads * each)

    def saved(self, operator: Operator, dropout: bool, gated: bool) -> dict[str, int]:
        """Queries, keys and values, decay and step of each head in 32 bits, and the inverses of the chunks."""
        rows = _tokens(operator) * operator.heads
        size = dtype_bytes(operator.dtype)
        return {
            "query": size * rows * operator.n,
            "key": size * rows * operator.n,
            "value": size * rows * operator.head_dim,
            "gates": 8 * rows,
            "inverse": size * rows * operator.k,
        }


def _tokens(operator: Operator) -> int:
    return operator.batch * operator.seq_q


def _chunks(operator: Operator) -> int:
    return operator.batch * -(-operator.seq_q // max(1, operator.k))


# Forward reads and writes; backward does so again, and reads the input and the output's gradient for the input's.
register(
    Convolution(
        "causal_conv1d",
        "causal convolution and activation of a mixer, m tokens of n channels, over k tokens each",
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
# Kernels of flash-linear-attention's chunk_gated_delta_rule: norms of queries and keys, sums of decays, products of
# keys, inverse, its products, states, output; backward the last three again, and those of the gradients.
register(
    DeltaRule(
        "delta_rule",
        "gated delta rule in chunks of k tokens, `batch` sequences of seq_q, keys of n channels, head_dim values",
        kernels=(8, 14),
        like="chunk_scan",
    )
)
