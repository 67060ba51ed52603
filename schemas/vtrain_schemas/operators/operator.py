"""One operator at one shape: the identity under which its time is measured and estimated."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

from vtrain_schemas.operators.registry import kind

# The sizes that identify an operator within its kind, phase and element type: names of fields.
DIMENSIONS = ("m", "n", "k", "batch", "seq_q", "seq_kv", "heads", "kv_heads", "head_dim")
_sizes = attrgetter(*DIMENSIONS)


@dataclass(frozen=True)
class Operator:
    """One operator at one shape.

    m, n, k: rows (tokens), columns, inner dimension. Attention uses batch, seq_q, seq_kv, heads,
    kv_heads, head_dim. A dimension that a kind does not have is 0.

    fused: one kernel does the whole (see `OperatorKind.fusion`). causal: attention that masks later
    tokens. Both are False for kinds that have no such choice.
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
    fused: bool = False
    causal: bool = False

    @property
    def dims(self) -> tuple[int, ...]:
        """Its `DIMENSIONS`."""
        sizes: tuple[int, ...] = _sizes(self)
        return sizes

    def flops(self) -> float:
        """Floating point operations that one call executes; raises `UnknownKindError`."""
        return kind(self.kind).flops(self)

    def bytes(self) -> float:
        """Memory traffic of one call, bytes; raises `UnknownKindError`."""
        return kind(self.kind).bytes(self)

    def saved_bytes(self, dropout: bool = True, gated: bool = False) -> int:
        """Bytes kept from the forward to the backward pass, see `OperatorKind.saved`."""
        return sum(kind(self.kind).saved(self, dropout, gated).values())
