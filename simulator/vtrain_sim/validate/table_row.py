"""The configuration that a row of a validation table describes, and what its source is known to have run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from vtrain_sim.errors import UserError
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec

# Type of the parameters by the word of the precision.
_PRECISION = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "fp8": "bfloat16"}
# Sources of 2021: their software did not yet run the backward all-reduce beside the weight gradient.
_OLD_SOURCES = ("SC21", "MT-NLG", "BigScience")


def configuration_of(row: Mapping[str, str]) -> Configuration:
    """The configuration that a row describes; raises `UserError` where Megatron or vtrain has none such."""
    columns = _Columns(row)
    if columns.precision not in _PRECISION:
        raise UserError(f"precision {columns.precision} is not simulated")
    return Configuration(_model(columns), _parallel(columns), _train(columns))


@dataclass(frozen=True)
class _Columns:
    """Columns of one row, which may lack some."""

    row: Mapping[str, str]

    def number(self, name: str, default: int = 0) -> int:
        """A whole number. Raises `UserError` for text that is none."""
        text = self.row.get(name, "") or ""
        try:
            return int(float(text)) if text else default
        except (ValueError, OverflowError):
            raise UserError(f"{name} is {text!r}, not a number") from None

    @property
    def precision(self) -> str:
        return self.row.get("precision", "bf16")

    @property
    def schedule(self) -> str:
        return self.row.get("pipeline_schedule") or "1f1b"

    @property
    def deepspeed(self) -> bool:
        return self.row.get("framework", "") == "Megatron-DeepSpeed"

    @property
    def tp(self) -> int:
        return self.number("tensor_model_parallel_size", 1)

    @property
    def pp(self) -> int:
        return self.number("pipeline_model_parallel_size", 1)

    @cached_property
    def stage_layers(self) -> list[int]:
        """Layers of each stage: as even as can be, one fewer at both ends where the notes say so."""
        num_layers, pp = self.number("num_layers"), self.pp
        fewer = "first & last stages have one fewer layer" in self.row.get("notes", "")
        if fewer and (num_layers + 2) % pp == 0 and pp > 1:
            each = (num_layers + 2) // pp
            return [each - 1, *[each] * (pp - 2), each - 1]
        return _shared_out(num_layers, pp)

    @property
    def vpp(self) -> int:
        """Model chunks per stage; where the source does not say, one layer per chunk of the largest stage."""
        vpp = max(1, self.number("virtual_pipeline_chunks", 1))
        return max(self.stage_layers) if self.schedule == "interleaved" and vpp == 1 else vpp

    @property
    def dp(self) -> int:
        """Data parallel size: what the number of GPUs leaves, where the row's column disagrees with it."""
        listed = self.number("data_parallel_size", 1)
        model_ranks = self.tp * self.pp * self.number("context_parallel_size", 1)
        gpus = self.number("num_gpus")
        return gpus // model_ranks if model_ranks and gpus and gpus % model_ranks == 0 else listed


def _model(columns: _Columns) -> ModelSpec:
    number = columns.number
    gated = bool(number("swiglu"))
    return ModelSpec(
        num_layers=number("num_layers"),
        hidden_size=number("hidden_size"),
        num_attention_heads=number("num_attention_heads"),
        seq_length=number("seq_length"),
        vocab_size=number("vocab_size"),
        ffn_hidden_size=number("ffn_hidden_size"),
        num_query_groups=number("num_query_groups"),
        swiglu=gated,
        add_bias_linear=not gated,
        normalization="RMSNorm" if gated else "LayerNorm",
        position_embedding_type="rope" if gated else "learned_absolute",
        untie_embeddings_and_output_weights=gated,
        dropout=not gated,
        num_experts=number("num_experts"),
        moe_router_topk=number("moe_router_topk"),
    )


def _parallel(columns: _Columns) -> ParallelSpec:
    number, tp, pp, vpp = columns.number, columns.tp, columns.pp, columns.vpp
    framework, source = columns.row.get("framework", ""), columns.row.get("source", "")
    nemo = framework == "NeMo/Megatron-Core"
    sequence_parallel = bool(number("sequence_parallel"))
    # Before Megatron-Core, pipeline stages scattered and gathered what they passed on (as DeepSpeed's engine
    # partitions it).
    scatters = framework in ("Megatron-LM", "Megatron-DeepSpeed") and not sequence_parallel
    even = number("num_layers") % (pp * vpp) == 0
    return ParallelSpec(
        tp=tp,
        pp=pp,
        vpp=vpp,
        cp=number("context_parallel_size", 1),
        ep=number("expert_model_parallel_size", 1),
        dp=columns.dp,
        sequence_parallel=sequence_parallel and tp > 1,
        distributed_optimizer=bool(number("distributed_optimizer")),
        overlap_p2p=vpp > 1,
        overlap_grad_reduce=nemo,
        overlap_param_gather=nemo,
        tp_comm_overlap=nemo and sequence_parallel and tp > 1,
        async_tp_allreduce=not any(word in source for word in _OLD_SOURCES),
        scatter_gather=scatters and tp > 1 and pp > 1,
        batch_p2p=not columns.deepspeed,
        layers=() if even else _interleave(columns.stage_layers, vpp),
    )


def _train(columns: _Columns) -> TrainSpec:
    row, precision = columns.row, columns.precision
    recompute = row.get("recompute_granularity") or "none"
    # Sharded optimizers (Megatron-LM's, and DeepSpeed's as BLOOM ran it) keep gradients in fp32.
    narrow = precision == "fp16" and not columns.number("distributed_optimizer")
    return TrainSpec(
        columns.number("micro_batch_size"),
        columns.number("global_batch_size"),
        params_dtype=_PRECISION[precision],
        main_grads_dtype="float16" if narrow else "float32",
        fp8="hybrid" if precision == "fp8" else "",
        attention_kernel=row.get("attention_kernel") or "flash",
        recompute_granularity="none" if recompute == "unknown" else recompute,
        schedule=columns.schedule if columns.vpp == 1 else "auto",
        gradient_accumulation_fusion=not columns.deepspeed,
    )


def _interleave(stages: list[int], vpp: int) -> tuple[int, ...]:
    """Layers of each virtual stage: those of a stage shared out over its chunks, the end ones short.

    The first stage lacks layers in its first chunk, beside the embedding, the last in its last.
    """
    pp = len(stages)
    chunks = [_shared_out(layers, vpp) for layers in stages]
    chunks[0].reverse()
    return tuple(chunks[stage][chunk] for chunk in range(vpp) for stage in range(pp))


def _shared_out(count: int, parts: int) -> list[int]:
    """A count over so many parts, as even as can be, the first ones larger."""
    return [count // parts + (1 if part < count % parts else 0) for part in range(parts)]
