"""What an operator is (kind, phase, shape) and how many FLOPs and bytes it takes.

Both sides use these formulas: the plugin to describe what it measured, the simulator to estimate what
it predicts. FLOPs count a multiply-add as two (Narayanan et al., SC'21, appendix). Bytes are those
of a perfect implementation: each input read once, each output written once.
"""

from __future__ import annotations

from dataclasses import dataclass

DTYPE_BYTES = {
    "float64": 8,
    "int64": 8,
    "float32": 4,
    "int32": 4,
    "tf32": 4,
    "bfloat16": 2,
    "float16": 2,
    "int16": 2,
    "float8": 1,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}

# Passes over memory per element: (forward, backward), in units of the m x n tensor.
_STREAMED = {
    "norm": (2.0, 4.0),
    "rope": (2.0, 2.0),
    "activation": (2.0, 3.0),
    "bias_dropout_add": (6.0, 4.0),
    "permute": (2.0, 2.0),
    "cast": (2.0, 2.0),
}
# Bytes per element of the once-a-step kinds with fp32 main gradients and Adam.
_PER_ELEMENT = {"zero_grad": 4.0, "grad_prepare": 8.0, "grad_norm": 4.0, "grad_clip": 8.0, "optimizer": 28.0}


class UnknownDtypeError(ValueError):
    """An element type whose size vtrain does not know."""


def dtype_bytes(dtype: str) -> int:
    """Size of one element; raises `UnknownDtypeError` with the known names."""
    try:
        return DTYPE_BYTES[dtype]
    except KeyError:
        raise UnknownDtypeError(f"unknown element type {dtype!r}: known are {', '.join(DTYPE_BYTES)}") from None


@dataclass(frozen=True)
class Operator:
    """One operator at one shape. The identity under which its time is measured and estimated.

    m, n, k: rows (tokens), columns, inner dimension. Attention uses batch, seq_q, seq_kv, heads,
    kv_heads, head_dim. A dimension that a kind does not have is 0.
    """

    kind: str
    phase: str
    m: int = 0
    n: int = 0
    k: int = 0
    batch: int = 1
    seq_q: int = 0
    seq_kv: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    dtype: str = "bfloat16"
    fused: str = ""

    @property
    def dims(self) -> tuple[int, ...]:
        """The sizes that identify the operator within its kind, phase and element type."""
        return (
            self.m,
            self.n,
            self.k,
            self.batch,
            self.seq_q,
            self.seq_kv,
            self.heads,
            self.kv_heads,
            self.head_dim,
        )

    def flops(self) -> float:
        """Floating point operations of one call."""
        backward = self.phase == "backward"
        if self.kind in ("gemm", "grouped_gemm", "router"):
            return 2.0 * self.m * self.n * self.k * (2 if backward else 1)
        if self.kind == "attention":
            # Scores and weighted sum: two batched GEMMs; the full square, as Megatron counts.
            scores = self.batch * self.heads * self.seq_q * self.seq_kv
            return 4.0 * scores * self.head_dim * (2.0 if backward else 1.0)
        if self.kind in _STREAMED:
            return self.m * self.n * (10.0 if backward else 5.0)
        if self.kind == "loss":
            return self.m * self.n * (2.0 if backward else 5.0)
        if self.kind == "optimizer":
            return 12.0 * self.m
        if self.kind in _PER_ELEMENT:
            return 2.0 * self.m
        return 0.0

    def score_bytes(self) -> float:
        """Traffic of the score matrix of unfused attention, bytes.

        Forward: written by the first product, read and written by softmax and by dropout (with a mask of
        one byte), read by the second product. Backward: the same for the gradient, and the softmax and
        dropout outputs read once more (Megatron's fused scale, mask and softmax).
        """
        size = dtype_bytes(self.dtype)
        scores = float(self.batch * self.heads * self.seq_q * self.seq_kv)
        return scores * (9 * size + 1 if self.phase == "backward" else 6 * size + 1)

    def bytes(self) -> float:
        """Memory traffic of one call, bytes."""
        size = dtype_bytes(self.dtype)
        backward = self.phase == "backward"
        if self.kind in ("gemm", "grouped_gemm", "router"):
            experts = self.batch if self.kind == "grouped_gemm" else 1
            once = size * (self.m * self.k + experts * self.k * self.n + self.m * self.n)
            # Weight gradients are accumulated into an fp32 buffer: read and written once more.
            accumulate = 8.0 * experts * self.k * self.n
            if self.phase == "wgrad":
                return once + accumulate
            return once * (2 if backward else 1) + (accumulate if backward else 0.0)
        if self.kind == "attention":
            q = self.batch * self.seq_q * self.heads * self.head_dim
            kv = 2 * self.batch * self.seq_kv * self.kv_heads * self.head_dim
            io = size * (2.0 * q + kv) * (2.5 if backward else 1.0)
            return io if self.fused == "flash" else io + self.score_bytes()
        if self.kind in _STREAMED:
            return size * self.m * self.n * _STREAMED[self.kind][1 if backward else 0]
        if self.kind == "loss":
            return size * self.m * self.n + 4.0 * self.m * self.n * (1.0 if backward else 3.0)
        if self.kind == "embedding":
            io = 2.0 * size * self.m * self.n
            # A dense weight gradient covers the whole table and is then accumulated.
            return io + (4.0 * self.k * self.n * 3.0 if backward else 0.0)
        if self.kind in _PER_ELEMENT:
            return _PER_ELEMENT[self.kind] * self.m
        if self.kind == "grad_accumulate":
            # Gradients kept in fp32 are converted first (2 + 4 bytes), then added (4 + 4 + 4).
            return (18.0 if size == 4 else 3.0 * size) * self.m
        return 0.0
