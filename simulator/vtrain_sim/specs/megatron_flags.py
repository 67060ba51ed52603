"""Reads Megatron's own command-line flags into a configuration, and prints them back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from vtrain_sim.errors import nearest
from vtrain_sim.specs.config import Configuration
from vtrain_sim.specs.model import ModelSpec
from vtrain_sim.specs.parallel import ParallelSpec
from vtrain_sim.specs.train import TrainSpec
from vtrain_sim.specs.validation import SpecError


def _int(flag: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise SpecError(f"{flag} is {text!r}: it takes a whole number") from None


def _text(flag: str, text: str) -> str:
    return text


def _choice(values: dict[str, Any]) -> Callable[[str, str], Any]:
    def read(flag: str, text: str) -> Any:
        if text not in values:
            raise SpecError(f"{flag} is {text!r}: it takes one of {', '.join(values)}")
        return values[text]

    return read


# flag -> (field, reader), or (field, constant) for a switch
_VALUES: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "--num-layers": ("num_layers", _int),
    "--hidden-size": ("hidden_size", _int),
    "--ffn-hidden-size": ("ffn_hidden_size", _int),
    "--num-attention-heads": ("num_attention_heads", _int),
    "--num-query-groups": ("num_query_groups", _int),
    "--kv-channels": ("kv_channels", _int),
    "--seq-length": ("seq_length", _int),
    "--max-position-embeddings": ("max_position_embeddings", _int),
    "--vocab-size": ("vocab_size", _int),
    "--make-vocab-size-divisible-by": ("make_vocab_size_divisible_by", _int),
    "--normalization": ("normalization", _text),
    "--position-embedding-type": ("position_embedding_type", _text),
    "--num-experts": ("num_experts", _int),
    "--moe-router-topk": ("moe_router_topk", _int),
    "--moe-ffn-hidden-size": ("moe_ffn_hidden_size", _int),
    "--tensor-model-parallel-size": ("tp", _int),
    "--pipeline-model-parallel-size": ("pp", _int),
    "--context-parallel-size": ("cp", _int),
    "--expert-model-parallel-size": ("ep", _int),
    "--data-parallel-size": ("dp", _int),
    "--num-layers-per-virtual-pipeline-stage": ("layers_per_chunk", _int),
    "--num-virtual-stages-per-pipeline-rank": ("vpp", _int),
    "--micro-batch-size": ("micro_batch_size", _int),
    "--global-batch-size": ("global_batch_size", _int),
    "--recompute-granularity": ("recompute_granularity", _text),
    "--recompute-method": ("recompute_method", _text),
    "--recompute-num-layers": ("recompute_num_layers", _int),
    "--attention-backend": (
        "attention_kernel",
        _choice({"flash": "flash", "fused": "flash", "auto": "flash", "unfused": "unfused", "local": "unfused"}),
    ),
    "--schedule": ("schedule", _text),
}  # fmt: skip
_SWITCHES: dict[str, tuple[str, Any]] = {
    "--swiglu": ("swiglu", True),
    "--disable-bias-linear": ("add_bias_linear", False),
    "--untie-embeddings-and-output-weights": ("untie_embeddings_and_output_weights", True),
    "--group-query-attention": ("group_query_attention", True),
    "--sequence-parallel": ("sequence_parallel", True),
    "--use-distributed-optimizer": ("distributed_optimizer", True),
    "--overlap-grad-reduce": ("overlap_grad_reduce", True),
    "--overlap-param-gather": ("overlap_param_gather", True),
    "--bf16": ("params_dtype", "bfloat16"),
    "--fp16": ("params_dtype", "float16"),
    "--use-flash-attn": ("attention_kernel", "flash"),
    "--recompute-activations": ("recompute_granularity", "selective"),
    "--no-overlap-p2p-communication": ("overlap_p2p", False),
}
_MODEL = {f.name for f in fields(ModelSpec)}
_PARALLEL = {f.name for f in fields(ParallelSpec)}
_TRAIN = {f.name for f in fields(TrainSpec)}


@dataclass(frozen=True)
class Flags:
    """Values read from flags, by field name."""

    values: dict[str, Any]
    given: dict[str, str]  # field -> the flag that gave it


def parse_flags(tokens: Sequence[str]) -> Flags:
    """Read a list of arguments; raises `SpecError` for an unknown or malformed one."""
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    position = 0
    while position < len(tokens):
        flag, equals, inline = tokens[position].partition("=")
        position += 1
        if flag in _SWITCHES and not equals:
            field, constant = _SWITCHES[flag]
            values[field], given[field] = constant, flag
            continue
        if flag not in _VALUES:
            known = [*_VALUES, *_SWITCHES]
            raise SpecError(f"unknown argument {tokens[position - 1]!r}{nearest(flag, known)}")
        if not equals:
            if position >= len(tokens):
                raise SpecError(f"{flag} needs a value")
            inline = tokens[position]
            position += 1
        field, read = _VALUES[flag]
        values[field], given[field] = read(flag, inline), flag
    return Flags(values, given)


def configuration_from_flags(
    tokens: Sequence[str],
    base: Configuration | None = None,
    num_gpus: int = 0,
    base_model: ModelSpec | None = None,
) -> Configuration:
    """The configuration that flags describe, on top of `base` (or of a model) where there is one.

    num_gpus: world size; 0: as many as tp x pp x cp x dp. Raises `SpecError`.
    """
    flags = parse_flags(tokens)
    values = dict(flags.values)
    model = _model(values, base.model if base is not None else base_model)
    layers_per_chunk = values.pop("layers_per_chunk", 0)
    parallel = _parallel(values, flags, base, model, layers_per_chunk, num_gpus)
    train = _train(values, base)
    return Configuration(model, parallel, train)


def _model(values: dict[str, Any], old: ModelSpec | None) -> ModelSpec:
    own = {k: values[k] for k in values if k in _MODEL}
    values.pop("group_query_attention", None)
    if old is None:
        needed = {
            "num_layers": "--num-layers", "hidden_size": "--hidden-size",
            "num_attention_heads": "--num-attention-heads", "seq_length": "--seq-length",
        }  # fmt: skip
        missing = [flag for name, flag in needed.items() if name not in own]
        if missing:
            raise SpecError(f"the model is incomplete: {', '.join(missing)} missing")
        own.setdefault("vocab_size", 50257)
        return ModelSpec(**own)
    # Defaults that follow other sizes follow their new values, as in Megatron itself.
    if "hidden_size" in own or "swiglu" in own:
        own.setdefault("ffn_hidden_size", 0)
    if "hidden_size" in own or "num_attention_heads" in own:
        own.setdefault("kv_channels", 0)
    if "num_attention_heads" in own and old.num_query_groups == old.num_attention_heads:
        own.setdefault("num_query_groups", 0)
    if "seq_length" in own and old.max_position_embeddings == old.seq_length:
        own.setdefault("max_position_embeddings", 0)
    return replace(old, **own)


def _parallel(
    values: dict[str, Any],
    flags: Flags,
    base: Configuration | None,
    model: ModelSpec,
    layers_per_chunk: int,
    num_gpus: int,
) -> ParallelSpec:
    own = {k: values[k] for k in values if k in _PARALLEL}
    old = base.parallel if base is not None else ParallelSpec()
    pp = own.get("pp", old.pp)
    if layers_per_chunk:
        if "vpp" in own:
            raise SpecError(f"{flags.given['vpp']} and --num-layers-per-virtual-pipeline-stage say the same: give one")
        if layers_per_chunk < 0 or pp < 1 or model.num_layers % pp or (model.num_layers // pp) % layers_per_chunk:
            raise SpecError(
                f"--num-layers-per-virtual-pipeline-stage is {layers_per_chunk}, which does not divide the "
                f"layers of a pipeline stage ({model.num_layers} over {pp})"
            )
        own["vpp"] = model.num_layers // pp // layers_per_chunk
    elif pp == 1:
        own.setdefault("vpp", 1)
    if own.get("vpp", old.vpp) > 1:
        # Megatron overlaps the pipeline's communication whenever it interleaves.
        own.setdefault("overlap_p2p", True)
    else:
        own["overlap_p2p"] = False
    if own.get("tp", old.tp) == 1 and "sequence_parallel" not in own:
        own["sequence_parallel"] = False
    if num_gpus:
        model_ranks = own.get("tp", old.tp) * pp * own.get("cp", old.cp)
        if model_ranks < 1 or num_gpus % model_ranks:
            raise SpecError(
                f"--num-gpus is {num_gpus}, which is not a multiple of tensor x pipeline x context parallel "
                f"size ({model_ranks})"
            )
        if "dp" in own and own["dp"] * model_ranks != num_gpus:
            raise SpecError(
                f"--data-parallel-size {own['dp']} and --num-gpus {num_gpus} disagree: "
                f"{num_gpus} GPUs make {num_gpus // model_ranks}"
            )
        own["dp"] = num_gpus // model_ranks
    return replace(old, **own)


def _train(values: dict[str, Any], base: Configuration | None) -> TrainSpec:
    own = {k: values[k] for k in values if k in _TRAIN}
    if base is not None:
        return replace(base.train, **own)
    for name, flag in (
        ("micro_batch_size", "--micro-batch-size"),
        ("global_batch_size", "--global-batch-size"),
    ):
        if name not in own:
            raise SpecError(f"the training step is incomplete: {flag} missing")
    own.setdefault("params_dtype", "bfloat16")
    return TrainSpec(**own)


def emit_flags(configuration: Configuration) -> list[str]:
    """Megatron's flags for a configuration; reading them back gives the same configuration."""
    model, parallel, train = configuration.model, configuration.parallel, configuration.train
    flags = [
        "--num-layers", str(model.num_layers), "--hidden-size", str(model.hidden_size),
        "--ffn-hidden-size", str(model.ffn_hidden_size),
        "--num-attention-heads", str(model.num_attention_heads), "--kv-channels", str(model.kv_channels),
        "--seq-length", str(model.seq_length), "--vocab-size", str(model.vocab_size),
        "--make-vocab-size-divisible-by", str(model.make_vocab_size_divisible_by),
        "--normalization", model.normalization,
        "--position-embedding-type", model.position_embedding_type,
    ]  # fmt: skip
    if model.position_embedding_type == "learned_absolute":
        flags += ["--max-position-embeddings", str(model.max_position_embeddings)]
    if model.num_query_groups != model.num_attention_heads:
        flags += ["--group-query-attention", "--num-query-groups", str(model.num_query_groups)]
    if model.num_experts:
        flags += [
            "--num-experts", str(model.num_experts), "--moe-router-topk", str(model.moe_router_topk),
            "--moe-ffn-hidden-size", str(model.moe_ffn_hidden_size),
        ]  # fmt: skip
    flags += ["--swiglu"] * model.swiglu + ["--disable-bias-linear"] * (not model.add_bias_linear)
    flags += ["--untie-embeddings-and-output-weights"] * model.untie_embeddings_and_output_weights
    flags += [
        "--tensor-model-parallel-size", str(parallel.tp),
        "--pipeline-model-parallel-size", str(parallel.pp),
    ]  # fmt: skip
    if parallel.vpp > 1:
        chunk = model.num_layers // parallel.pp // parallel.vpp
        flags += ["--num-layers-per-virtual-pipeline-stage", str(chunk)]
        flags += ["--no-overlap-p2p-communication"] * (not parallel.overlap_p2p)
    if parallel.cp > 1:
        flags += ["--context-parallel-size", str(parallel.cp)]
    if parallel.ep > 1:
        flags += ["--expert-model-parallel-size", str(parallel.ep)]
    flags += ["--sequence-parallel"] * parallel.sequence_parallel
    flags += ["--use-distributed-optimizer"] * parallel.distributed_optimizer
    flags += ["--overlap-grad-reduce"] * parallel.overlap_grad_reduce
    flags += ["--overlap-param-gather"] * parallel.overlap_param_gather
    flags += [
        "--micro-batch-size", str(train.micro_batch_size),
        "--global-batch-size", str(train.global_batch_size),
        "--attention-backend", train.attention_kernel,
    ]  # fmt: skip
    flags += {"bfloat16": ["--bf16"], "float16": ["--fp16"]}.get(train.params_dtype, [])
    if train.recompute_granularity != "none":
        flags += ["--recompute-granularity", train.recompute_granularity]
        if train.recompute_granularity == "full":
            flags += ["--recompute-method", train.recompute_method]
            flags += ["--recompute-num-layers", str(train.recompute_num_layers)]
    return flags
