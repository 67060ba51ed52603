"""The operators of one rank of a model, for each of the given tensor parallel and micro batch sizes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vtrain_schemas.operators import Operator


class SizeError(ValueError):
    """Sizes that do not fit together; the message names the flag and what would be valid."""


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of the model, as Megatron's flags name them; 0 where the model has none, or for Megatron's default.

    fp8: linear layers multiply in 8 bits. fused_attention: one kernel, without the score matrix in memory.
    rope: rotary position embedding.
    """

    hidden_size: int
    num_attention_heads: int
    seq_length: int
    vocab_size: int
    ffn_hidden_size: int = 0
    num_query_groups: int = 0
    num_layers: int = 1
    swiglu: bool = False
    dtype: str = "bfloat16"
    kv_channels: int = 0
    rope: bool = True
    fused_attention: bool = True
    fp8: bool = False
    num_experts: int = 0
    moe_router_topk: int = 2
    moe_ffn_hidden_size: int = 0
    moe_shared_expert_intermediate_size: int = 0
    moe_grouped_gemm: bool = False
    expert_model_parallel_size: int = 1
    multi_latent_attention: bool = False
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    qk_head_dim: int = 0
    qk_pos_emb_head_dim: int = 0
    v_head_dim: int = 0

    def __post_init__(self) -> None:
        for flag in ("hidden_size", "num_attention_heads", "seq_length", "vocab_size", "num_layers"):
            if getattr(self, flag) < 1:
                raise SizeError(f"--{flag.replace('_', '-')} is {getattr(self, flag)}: it must be 1 or more")
        if self.hidden_size % self.num_attention_heads and not self.kv_channels:
            raise SizeError(
                f"--num-attention-heads is {self.num_attention_heads}, which does not divide "
                f"--hidden-size ({self.hidden_size})"
            )
        if self.num_experts % self.expert_model_parallel_size:
            raise SizeError(
                f"--expert-model-parallel-size is {self.expert_model_parallel_size}, which does not divide "
                f"--num-experts ({self.num_experts})"
            )

    @property
    def ffn(self) -> int:
        return self.ffn_hidden_size or 4 * self.hidden_size

    @property
    def expert_ffn(self) -> int:
        return self.moe_ffn_hidden_size or self.ffn

    @property
    def groups(self) -> int:
        return self.num_query_groups or self.num_attention_heads

    @property
    def head_dim(self) -> int:
        return self.kv_channels or self.hidden_size // self.num_attention_heads

    @property
    def latent_query_dim(self) -> int:
        """Channels of a head's queries and keys in multi-latent attention."""
        return self.qk_head_dim + self.qk_pos_emb_head_dim

    @property
    def gates(self) -> int:
        return 2 if self.swiglu else 1


def operators_of(model: ModelSizes, tps: Iterable[int], micro_batch_sizes: Iterable[int]) -> list[Operator]:
    """Distinct forward operators of all combinations; backward ones have the same shapes."""
    distinct: dict[Operator, None] = {}
    for tp in tps:
        if model.num_attention_heads % tp or model.ffn % tp or model.groups % tp or model.expert_ffn % tp:
            raise SizeError(
                f"tensor parallel size {tp} does not divide the heads ({model.num_attention_heads}), "
                f"query groups ({model.groups}) and --ffn-hidden-size ({model.ffn})"
            )
        for mbs in micro_batch_sizes:
            distinct |= dict.fromkeys(_Shard(model, tp, mbs).operators())
    return list(distinct)


class _Shard:
    """One rank's share of the model at one size."""

    def __init__(self, model: ModelSizes, tp: int, mbs: int) -> None:
        self.model, self.tp, self.mbs = model, tp, mbs
        self.tokens, self.local = model.seq_length * mbs, model.seq_length * mbs // tp
        # Between tensor-parallel regions: the whole sequence, or with sequence parallelism a part of it.
        self.rows = tuple(dict.fromkeys((self.tokens, self.local)))
        self.heads = model.num_attention_heads // tp
        self.vocabulary = -(-model.vocab_size // tp)

    def operators(self) -> list[Operator]:
        model, h = self.model, self.model.hidden_size
        feed_forward = self._experts() if model.num_experts else self._linear_pair(model.ffn // self.tp)
        attention = self._latent_projections() if model.multi_latent_attention else self._projections()
        return [
            *attention,
            self._attention(),
            *feed_forward,
            # With sequence parallelism a rank converts its own part of the sequence, which is then gathered.
            *(self._op("cast", rows, h) for rows in self.rows if model.fp8),
            # The output layer stays in the parameters' type whatever the linear layers use.
            self._op("gemm", self.tokens, self.vocabulary, h),
            *(self._op(kind, rows, h) for kind in ("norm", "bias_dropout_add") for rows in self.rows),
            self._op("embedding", self.tokens, h, self.vocabulary),
            self._op("loss", self.tokens, self.vocabulary),
            Operator("optimizer", "update", self._parameters(), dtype="float32"),
        ]

    def _op(self, kind: str, m: int, n: int = 0, k: int = 0, batch: int = 1) -> Operator:
        return Operator(kind, "forward", m, n, k, batch, dtype=self.model.dtype)

    def _linear(self, m: int, n: int, k: int) -> list[Operator]:
        """A linear layer; in 8 bits its input is converted first."""
        if not self.model.fp8:
            return [self._op("gemm", m, n, k)]
        return [self._op("cast", m, k), Operator("gemm", "forward", m, n, k, dtype="float8")]

    def _linear_pair(self, ffn: int) -> list[Operator]:
        h, gates = self.model.hidden_size, self.model.gates
        return [
            *self._linear(self.tokens, gates * ffn, h),
            self._op("activation", self.tokens, ffn),
            *self._linear(self.tokens, h, ffn),
        ]

    def _projections(self) -> list[Operator]:
        model = self.model
        width = (self.heads + 2 * model.groups // self.tp) * model.head_dim
        return [
            *self._linear(self.tokens, width, model.hidden_size),
            *([self._op("rope", self.tokens, width)] if model.rope else []),
            *self._linear(self.tokens, model.hidden_size, self.heads * model.head_dim),
        ]

    def _latent_projections(self) -> list[Operator]:
        """Down-projections are replicated and work on the local part of the sequence; up-projections are sharded."""
        model, h, query = self.model, self.model.hidden_size, self.heads * self.model.latent_query_dim
        down = [model.kv_lora_rank + model.qk_pos_emb_head_dim, *([model.q_lora_rank] if model.q_lora_rank else [])]
        norms = [model.kv_lora_rank, *([model.q_lora_rank] if model.q_lora_rank else [])]
        return [
            *(op for rows in self.rows for n in down for op in self._linear(rows, n, h)),
            *(self._op("norm", rows, n) for rows in self.rows for n in norms),
            *self._linear(self.tokens, query, model.q_lora_rank or h),
            *self._linear(self.tokens, self.heads * (model.qk_head_dim + model.v_head_dim), model.kv_lora_rank),
            *([self._op("rope", self.tokens, query)] if model.rope else []),
            *self._linear(self.tokens, h, self.heads * model.v_head_dim),
        ]

    def _attention(self) -> Operator:
        model = self.model
        head_dim = model.head_dim
        if model.multi_latent_attention:
            # Scores over the query channels, sums over the value channels: the mean has the same FLOPs.
            head_dim = (model.latent_query_dim + model.v_head_dim) // 2
        return Operator(
            "attention",
            "forward",
            batch=self.mbs,
            seq_q=model.seq_length,
            seq_kv=model.seq_length,
            heads=self.heads,
            kv_heads=max(1, model.groups // self.tp),
            head_dim=head_dim,
            dtype=model.dtype,
            fused=model.fused_attention,
            causal=True,
        )

    def _experts(self) -> list[Operator]:
        """Router, permutation and local experts, with as many tokens to each; shared experts."""
        model, h = self.model, self.model.hidden_size
        rows, ffn = self.tokens * model.moe_router_topk, model.expert_ffn // self.tp
        local = model.num_experts // model.expert_model_parallel_size
        shared = model.moe_shared_expert_intermediate_size // self.tp
        return [
            *(self._op("router", tokens, model.num_experts, h) for tokens in self.rows),
            *(self._op("permute", tokens * model.moe_router_topk, h) for tokens in self.rows),
            *self._expert_pair(rows, ffn, local),
            *(self._linear_pair(shared) if shared else []),
        ]

    def _expert_pair(self, rows: int, ffn: int, experts: int) -> list[Operator]:
        """The local experts: together in grouped products, or one of those that run one after the other."""
        h, gates = self.model.hidden_size, self.model.gates
        if not self.model.moe_grouped_gemm:
            rows, experts = -(-rows // experts), 1
        return [
            *self._expert_linear(rows, gates * ffn, h, experts),
            self._op("activation", rows, ffn),
            *self._expert_linear(rows, h, ffn, experts),
        ]

    def _expert_linear(self, m: int, n: int, k: int, experts: int) -> list[Operator]:
        if not self.model.moe_grouped_gemm:
            return self._linear(m, n, k)
        if not self.model.fp8:
            return [self._op("grouped_gemm", m, n, k, experts)]
        return [self._op("cast", m, k), Operator("grouped_gemm", "forward", m, n, k, experts, dtype="float8")]

    def _parameters(self) -> int:
        """Parameters of the rank, for the size of its optimizer step: matrices, without biases and norms."""
        model = self.model
        attention = self._latent_projections() if model.multi_latent_attention else self._projections()
        count = self._matrices(attention)
        if model.num_experts:
            local = model.num_experts // model.expert_model_parallel_size
            shared = model.moe_shared_expert_intermediate_size // self.tp
            count += local * self._matrices(self._linear_pair(model.expert_ffn // self.tp))
            count += model.hidden_size * model.num_experts + self._matrices(self._linear_pair(shared))
        else:
            count += self._matrices(self._linear_pair(model.ffn // self.tp))
        return model.num_layers * count + self.vocabulary * model.hidden_size

    def _matrices(self, operators: list[Operator]) -> int:
        """Elements of the linear layers' weights, each once whatever parts of the sequence it works on."""
        return sum(o.n * o.k for o in operators if o.kind == "gemm" and (self.tp == 1 or o.m != self.local))
