"""The operators of one rank of a model, for each of the given tensor parallel and micro batch sizes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vtrain_schemas.operators import Operator


class SizeError(ValueError):
    """Sizes that do not fit together; the message names the flag and what would be valid."""


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of the model, as Megatron's flags name them."""

    hidden_size: int
    num_attention_heads: int
    seq_length: int
    vocab_size: int
    ffn_hidden_size: int = 0
    num_query_groups: int = 0
    num_layers: int = 1
    swiglu: bool = False
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        for flag in ("hidden_size", "num_attention_heads", "seq_length", "vocab_size", "num_layers"):
            if getattr(self, flag) < 1:
                raise SizeError(f"--{flag.replace('_', '-')} is {getattr(self, flag)}: it must be 1 or more")
        if self.hidden_size % self.num_attention_heads:
            raise SizeError(
                f"--num-attention-heads is {self.num_attention_heads}, which does not divide "
                f"--hidden-size ({self.hidden_size})"
            )

    @property
    def ffn(self) -> int:
        return self.ffn_hidden_size or 4 * self.hidden_size

    @property
    def groups(self) -> int:
        return self.num_query_groups or self.num_attention_heads


def operators_of(model: ModelSizes, tps: Iterable[int], micro_batch_sizes: Iterable[int]) -> list[Operator]:
    """Distinct forward operators of all combinations; backward ones have the same shapes."""
    distinct: dict[Operator, None] = {}
    for tp in tps:
        if model.num_attention_heads % tp or model.ffn % tp or model.groups % tp:
            raise SizeError(
                f"tensor parallel size {tp} does not divide the heads ({model.num_attention_heads}), "
                f"query groups ({model.groups}) and --ffn-hidden-size ({model.ffn})"
            )
        for mbs in micro_batch_sizes:
            for operator in _one(model, tp, mbs):
                distinct[operator] = None
    return list(distinct)


def _one(model: ModelSizes, tp: int, mbs: int) -> list[Operator]:
    tokens, h, dtype = model.seq_length * mbs, model.hidden_size, model.dtype
    head_dim = h // model.num_attention_heads
    heads, kv = model.num_attention_heads // tp, model.groups // tp
    qkv, ffn = (heads + 2 * kv) * head_dim, model.ffn // tp
    gate = 2 if model.swiglu else 1
    vocabulary = -(-model.vocab_size // tp)

    def op(kind: str, m: int, n: int = 0, k: int = 0) -> Operator:
        return Operator(kind, "forward", m, n, k, dtype=dtype)

    parameters = model.num_layers * (h * qkv + heads * head_dim * h + (gate + 1) * h * ffn) + vocabulary * h
    return [
        op("gemm", tokens, qkv, h),
        op("gemm", tokens, h, heads * head_dim),
        op("gemm", tokens, gate * ffn, h),
        op("gemm", tokens, h, ffn),
        op("gemm", tokens, vocabulary, h),
        Operator(
            "attention",
            "forward",
            batch=mbs,
            seq_q=model.seq_length,
            seq_kv=model.seq_length,
            heads=heads,
            kv_heads=kv,
            head_dim=head_dim,
            dtype=dtype,
            fused=True,
            causal=True,
        ),
        op("norm", tokens, h),
        op("norm", tokens // tp, h),
        op("activation", tokens, ffn),
        op("bias_dropout_add", tokens, h),
        op("bias_dropout_add", tokens // tp, h),
        op("loss", tokens, vocabulary),
        Operator("optimizer", "update", parameters, dtype="float32"),
    ]
