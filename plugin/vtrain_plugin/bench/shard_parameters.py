"""Parameters of one rank's shard, counted from Megatron's flags as Megatron-Core builds its modules."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from vtrain_plugin.bench.player_config import some_of_each


@dataclass(frozen=True)
class ShardParameters:
    """dense: sharded over all data parallel ranks. experts: over those with the same experts. layers: of the rank, a
    1 for each mixture of experts and a 0 for each dense one.
    """

    dense: int
    experts: int
    layers: tuple[int, ...]

    @property
    def total(self) -> int:
        return self.dense + self.experts

    @classmethod
    def of(cls, args: argparse.Namespace) -> ShardParameters:
        """Count; `args` are those of ``vtrain-profile rank``."""
        return _Counter(args).count()


class _Counter:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.h = args, args.hidden_size
        self.tp = args.tensor_model_parallel_size
        self.etp = args.expert_tensor_parallel_size or self.tp
        self.head_dim = args.kv_channels or args.hidden_size // args.num_attention_heads
        self.ffn = args.ffn_hidden_size or 4 * args.hidden_size
        self.gates = 2 if args.swiglu else 1
        self.bias = not args.disable_bias_linear
        self.per_norm = 2 if args.normalization == "LayerNorm" else 1

    def count(self) -> ShardParameters:
        layers = self._layers()
        outside = 2 * self._norm(self.h) + (self._latent() if self.args.multi_latent_attention else self._attention())
        dense = sum(outside + (self._router() if mixture else self._mlp(self.ffn)) for mixture in layers)
        return ShardParameters(dense + self._ends(), self._experts() * sum(layers), tuple(layers))

    def _layers(self) -> list[int]:
        args = self.args
        per_stage = args.num_layers // args.pipeline_model_parallel_size
        first = self._stage() * per_stage
        frequency = args.moe_layer_freq
        pattern = [
            int(bool(args.num_experts) and (frequency[i] == 1 if isinstance(frequency, list) else i % frequency == 0))
            for i in range(first, first + per_stage)
        ]
        return some_of_each(pattern, args.layers) if args.layers else pattern

    def _stage(self) -> int:
        args = self.args
        return int(args.rank // (args.world_size // args.pipeline_model_parallel_size))

    def _norm(self, width: int) -> int:
        return self.per_norm * width

    def _linear(self, inputs: int, outputs: int, bias_of: int | None = None) -> int:
        """bias_of: width of the bias; that of the outputs where it is not given."""
        return inputs * outputs + ((outputs if bias_of is None else bias_of) if self.bias else 0)

    def _attention(self) -> int:
        args = self.args
        groups = args.num_query_groups or args.num_attention_heads
        heads = args.num_attention_heads // self.tp
        width = (heads + 2 * max(1, groups // self.tp)) * self.head_dim
        norms = 2 * self._norm(self.head_dim) if args.qk_layernorm else 0
        return self._linear(self.h, width) + self._linear(heads * self.head_dim, self.h) + norms

    def _latent(self) -> int:
        args = self.args
        heads, query = args.num_attention_heads // self.tp, args.qk_head_dim + args.qk_pos_emb_head_dim
        compressed = args.kv_lora_rank + args.qk_pos_emb_head_dim
        count = self.h * compressed + args.kv_lora_rank * heads * (args.qk_head_dim + args.v_head_dim)
        count += (args.q_lora_rank or self.h) * heads * query + self._linear(heads * args.v_head_dim, self.h)
        if args.q_lora_rank:
            count += self.h * args.q_lora_rank
        if args.qk_layernorm:
            count += self._norm(args.kv_lora_rank) + (self._norm(args.q_lora_rank) if args.q_lora_rank else 0)
        return int(count)

    def _mlp(self, ffn: int) -> int:
        return self._linear(self.h, self.gates * ffn // self.tp) + self._linear(ffn // self.tp, self.h)

    def _router(self) -> int:
        """What a mixture of experts has on every rank: router and shared experts."""
        shared = self.args.moe_shared_expert_intermediate_size
        return int(self.h * self.args.num_experts) + (self._mlp(shared) if shared else 0)

    def _experts(self) -> int:
        args = self.args
        ffn = (args.moe_ffn_hidden_size or self.ffn) // self.etp
        one = self._linear(self.h, self.gates * ffn) + self._linear(ffn, self.h)
        return int(args.num_experts // args.expert_model_parallel_size * one)

    def _ends(self) -> int:
        """Embedding on the first stage; final norm and output layer on the last, which has its own copy of a shared
        table unless it is the first stage too."""
        args, pp = self.args, self.args.pipeline_model_parallel_size
        table = args.vocab_size // self.tp * self.h
        first, last = self._stage() == 0, self._stage() == pp - 1
        count = 0
        if first:
            learned = args.position_embedding_type == "learned_absolute"
            count += table + (args.seq_length * self.h if learned else 0)
        if last:
            separate = args.untie_embeddings_and_output_weights or not first
            count += self._norm(self.h) + (table if separate else 0)
        return count
