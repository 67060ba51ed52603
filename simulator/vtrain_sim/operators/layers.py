"""Operator programs of a transformer layer, the embedding and the output head.

Follows Megatron-Core: Shoeybi et al. 2019 (tensor parallelism), Korthikanti et al. 2022 (sequence
parallelism, selective recomputation), Narayanan et al. 2021 (FLOP counts).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from vtrain_schemas.operators import Operator, dtype_bytes
from vtrain_sim.operators.program import Communication, Compute, Item, Program
from vtrain_sim.specs import Configuration


class LayerBuilder:
    """Builds the programs of one configuration; sizes are those of one rank."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        model, parallel, train = configuration.model, configuration.parallel, configuration.train
        self.dtype = train.params_dtype
        self.size = dtype_bytes(self.dtype)
        self.tp = parallel.tp
        self.tokens = model.seq_length * train.micro_batch_size // parallel.cp
        # Between the tensor-parallel regions each rank holds a part of the sequence.
        self.local_tokens = self.tokens // self.tp if parallel.sequence_parallel else self.tokens
        self.hidden_bytes = self.tokens * model.hidden_size * self.size

    # -- pieces ----------------------------------------------------------------------------

    def _op(self, kind: str, m: int, n: int = 0, k: int = 0, batch: int = 1) -> Operator:
        return Operator(kind, "forward", m, n, k, batch, dtype=self.dtype)

    def _enter(self, name: str, backward: bool, behind: str = "") -> list[Item]:
        """Communication at the entry of a tensor-parallel region (conjugate of `_leave`)."""
        if self.tp == 1:
            return []
        if self.configuration.parallel.sequence_parallel:
            op = "reduce_scatter" if backward else "all_gather"
            return [Communication(name, op, "tp", self.tp, self.hidden_bytes, behind if backward else "")]
        if backward:
            return [Communication(name, "all_reduce", "tp", self.tp, self.hidden_bytes, behind)]
        return []

    def _leave(self, name: str, backward: bool) -> list[Item]:
        """Communication at the exit of a tensor-parallel region."""
        if self.tp == 1:
            return []
        if self.configuration.parallel.sequence_parallel:
            op = "all_gather" if backward else "reduce_scatter"
            return [Communication(name, op, "tp", self.tp, self.hidden_bytes)]
        return [] if backward else [Communication(name, "all_reduce", "tp", self.tp, self.hidden_bytes)]

    def _regather(self, name: str, behind: str) -> list[Item]:
        """With sequence parallelism the input is gathered again for the weight gradient."""
        if self.tp == 1 or not self.configuration.parallel.sequence_parallel:
            return []
        return [Communication(name, "all_gather", "tp", self.tp, self.hidden_bytes, behind)]

    # -- a transformer layer ---------------------------------------------------------------

    def attention_block(self) -> tuple[list[Item], list[Item]]:
        """Norm, QKV projection, core attention and output projection: forward and backward."""
        model, parallel, train = (
            self.configuration.model, self.configuration.parallel, self.configuration.train
        )  # fmt: skip
        qkv = model.qkv_width // self.tp
        norm = Compute("input_layernorm", self._op("norm", self.local_tokens, model.hidden_size))
        linear_qkv = Compute("linear_qkv", self._op("gemm", self.tokens, qkv, model.hidden_size))
        rope = Compute("rope", self._op("rope", self.tokens, qkv))
        core = Compute(
            "core_attention",
            Operator(
                "attention", "forward", batch=train.micro_batch_size,
                seq_q=model.seq_length // parallel.cp, seq_kv=model.seq_length,
                heads=model.num_attention_heads // self.tp,
                kv_heads=max(1, model.num_query_groups // self.tp), head_dim=model.kv_channels,
                dtype=self.dtype, fused="flash" if train.attention_kernel == "flash" else "",
            ),
        )  # fmt: skip
        proj = Compute(
            "linear_proj",
            self._op("gemm", self.tokens, model.hidden_size, model.attention_width // self.tp),
        )
        ring: list[Item] = []
        if parallel.cp > 1:
            kv = 2 * (self.tokens * max(1, model.num_query_groups // self.tp) * model.kv_channels) * self.size
            ring = [Communication("cp_ring", "all_gather", "cp", parallel.cp, kv * parallel.cp, "core_attention")]
        forward = [
            norm, *self._enter("attention", False), linear_qkv, rope, *ring, core, proj,
            *self._leave("attention", False),
        ]  # fmt: skip
        backward = [
            *self._leave("attention", True), _b(proj), *ring, _b(core), _b(rope),
            *self._regather("linear_qkv", "linear_qkv"), _b(linear_qkv),
            *self._enter("attention", True, "linear_qkv"), _b(norm),
        ]  # fmt: skip
        if train.recompute_granularity == "selective":
            at = backward.index(_b(core))
            backward.insert(at, _r(core))
        return forward, backward

    def mlp_block(self) -> tuple[list[Item], list[Item]]:
        """Norm and feed-forward block (dense)."""
        model = self.configuration.model
        ffn = model.ffn_hidden_size // self.tp
        gate = 2 if model.swiglu else 1
        norm = Compute("pre_mlp_layernorm", self._op("norm", self.local_tokens, model.hidden_size))
        fc1 = Compute("linear_fc1", self._op("gemm", self.tokens, gate * ffn, model.hidden_size))
        activation = Compute("activation", self._op("activation", self.tokens, ffn))
        fc2 = Compute("linear_fc2", self._op("gemm", self.tokens, model.hidden_size, ffn))
        forward = [
            norm, *self._enter("mlp", False), fc1, activation, fc2, *self._leave("mlp", False),
        ]  # fmt: skip
        backward = [
            *self._leave("mlp", True), _b(fc2), _b(activation), *self._regather("linear_fc1", "linear_fc1"),
            _b(fc1), *self._enter("mlp", True, "linear_fc1"), _b(norm),
        ]  # fmt: skip
        return forward, backward

    def moe_block(self) -> tuple[list[Item], list[Item]]:
        """Norm, router, dispatch, local experts and combine, with balanced routing."""
        model, parallel = self.configuration.model, self.configuration.parallel
        routed = self.local_tokens * model.moe_router_topk
        local_experts = model.num_experts // parallel.ep
        # Every expert parallel rank sends and receives as many tokens as it holds.
        gate = 2 if model.swiglu else 1
        exchange = routed * model.hidden_size * self.size
        norm = Compute("pre_mlp_layernorm", self._op("norm", self.local_tokens, model.hidden_size))
        router = Compute("router", self._op("router", self.local_tokens, model.num_experts, model.hidden_size))
        permute = Compute("permute", self._op("permute", routed, model.hidden_size))
        ffn = model.moe_ffn_hidden_size
        fc1 = Compute(
            "experts_fc1",
            self._op("grouped_gemm", routed, gate * ffn, model.hidden_size, batch=local_experts),
        )
        activation = Compute("activation", self._op("activation", routed, ffn))
        fc2 = Compute("experts_fc2", self._op("grouped_gemm", routed, model.hidden_size, ffn, batch=local_experts))
        swap: list[Item] = []
        if parallel.ep > 1:
            swap = [Communication("dispatch", "all_to_all", "ep", parallel.ep, exchange)]
        forward = [norm, router, permute, *swap, fc1, activation, fc2, *swap]
        backward = [*swap, _b(fc2), _b(activation), _b(fc1), *swap, _b(permute), _b(router), _b(norm)]
        return forward, backward

    def layer(self) -> Program:
        """One transformer layer."""
        model, train = self.configuration.model, self.configuration.train
        attention_forward, attention_backward = self.attention_block()
        mlp_forward, mlp_backward = self.moe_block() if model.num_experts else self.mlp_block()
        add = Compute("bias_dropout_add", self._op("bias_dropout_add", self.local_tokens, model.hidden_size))
        forward = [*attention_forward, *mlp_forward, add]
        backward = [_b(add), *mlp_backward, *attention_backward]
        if train.recompute_granularity == "full" and train.recompute_method == "uniform":
            backward = [*run_again(forward), *backward]
        dense, expert = self.layer_parameters()
        return Program("layer", tuple(forward), tuple(backward), dense, expert)

    def layer_parameters(self) -> tuple[int, int]:
        """Parameters of one layer on one rank: shared by all data parallel ranks, and expert ones."""
        model, parallel = self.configuration.model, self.configuration.parallel
        h, tp = model.hidden_size, self.tp
        norm = h * (2 if model.normalization == "LayerNorm" else 1)
        bias = model.add_bias_linear
        dense = 2 * norm
        dense += h * model.qkv_width // tp + (model.qkv_width // tp if bias else 0)
        dense += model.attention_width // tp * h + (h if bias else 0)
        gate = 2 if model.swiglu else 1
        if model.num_experts:
            experts = model.num_experts // parallel.ep
            ffn = model.moe_ffn_hidden_size
            return dense + h * model.num_experts, experts * (h * ffn * (gate + 1))
        ffn = model.ffn_hidden_size // tp
        dense += h * ffn * gate + (ffn * gate if bias else 0) + ffn * h + (h if bias else 0)
        return dense, 0

    # -- first and last stage --------------------------------------------------------------

    def embedding(self) -> Program:
        """Input embedding of the first stage."""
        model = self.configuration.model
        rows = model.padded_vocab_size(self.tp) // self.tp
        look_up = Compute("embedding", self._op("embedding", self.tokens, model.hidden_size, rows))
        positions = model.max_position_embeddings if model.position_embedding_type == "learned_absolute" else 0
        return Program(
            "embedding",
            (look_up, *self._leave("embedding", False)),
            (*self._leave("embedding", True), _b(look_up)),
            (rows + positions) * model.hidden_size,
        )

    def head(self, tied_on_this_rank: bool) -> Program:
        """Final norm, projection onto the vocabulary and loss, on the last stage."""
        model = self.configuration.model
        columns = model.padded_vocab_size(self.tp) // self.tp
        norm = Compute("final_layernorm", self._op("norm", self.local_tokens, model.hidden_size))
        output = Compute("output_layer", self._op("gemm", self.tokens, columns, model.hidden_size))
        loss = Compute("loss", self._op("loss", self.tokens, columns))
        # Maximum, predicted logit and sum of exponentials, each over the tensor parallel group.
        reduce: list[Item] = []
        if self.tp > 1:
            reduce = [Communication("loss", "all_reduce", "tp", self.tp, self.tokens * 4)] * 3
        forward = [norm, *self._enter("output_layer", False), output, loss, *reduce]
        backward = [
            _b(loss), *self._regather("output_layer", "output_layer"), _b(output),
            *self._enter("output_layer", True, "output_layer"), _b(norm),
        ]  # fmt: skip
        parameters = model.hidden_size * (2 if model.normalization == "LayerNorm" else 1)
        if not tied_on_this_rank:
            parameters += columns * model.hidden_size
        return Program("head", tuple(forward), tuple(backward), parameters)

    def microbatch(self) -> Program:
        """What a microbatch costs outside the model: data, loss scaling, bookkeeping."""
        tokens = self.configuration.model.seq_length * self.configuration.train.micro_batch_size
        work = Compute("microbatch", Operator("microbatch", "forward", tokens))
        return Program("microbatch", (work,), (_b(work),))


def _b(item: Compute) -> Compute:
    return replace(item, operator=replace(item.operator, phase="backward"))


def _r(item: Compute) -> Compute:
    return replace(item, operator=replace(item.operator, phase="recompute"))


def run_again(forward: Iterable[Item]) -> list[Item]:
    """The forward program, run again in the backward pass."""
    return [_r(i) if isinstance(i, Compute) else i for i in forward]
