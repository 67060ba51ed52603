"""Reads Megatron's own command-line flags into a configuration, and prints them back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from vtrain_sim.errors import nearest
from vtrain_sim.inputs.flag_table import SWITCHES, VALUES, ignored, refused
from vtrain_sim.specs.config import Configuration
from vtrain_sim.specs.model import ModelSpec
from vtrain_sim.specs.parallel import ParallelSpec
from vtrain_sim.specs.pipeline_layout import parse_layout, uneven, write_layout
from vtrain_sim.specs.train import TrainSpec
from vtrain_sim.specs.validation import SpecError

_MODEL = {f.name for f in fields(ModelSpec)}
_PARALLEL = {f.name for f in fields(ParallelSpec)}
_TRAIN = {f.name for f in fields(TrainSpec)}


@dataclass(frozen=True)
class Flags:
    """Values read from flags, by field name."""

    values: dict[str, Any]
    given: dict[str, str]  # field -> the flag that gave it


def parse_flags(tokens: Sequence[str]) -> Flags:
    """Read a list of arguments; raises `SpecError` for an unknown or malformed one.

    Megatron's arguments that change neither time nor memory are accepted and left out.
    """
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    position = 0
    while position < len(tokens):
        flag, equals, inline = tokens[position].partition("=")
        position += 1
        if flag in SWITCHES and not equals:
            field, constant = SWITCHES[flag]
            values[field], given[field] = constant, flag
        elif flag in VALUES:
            if not equals:
                if position >= len(tokens):
                    raise SpecError(f"{flag} needs a value")
                inline = tokens[position]
                position += 1
            field, read = VALUES[flag]
            value = read(flag, inline)
            if not field.startswith("_"):
                values[field], given[field] = value, flag
        else:
            position = _skip(tokens, position, flag, bool(equals))
    return Flags(values, given)


def _skip(tokens: Sequence[str], position: int, flag: str, inline: bool) -> int:
    """Position after an argument that does not matter; refuses all others."""
    if flag in refused():
        raise SpecError(f"{flag} changes the training step in a way that is not simulated: leave it out")
    arity = ignored().get(flag)
    if arity is None:
        known = [*VALUES, *SWITCHES, *ignored()]
        raise SpecError(f"unknown argument {tokens[position - 1]!r}{nearest(flag, known)}")
    if inline or arity == "switch":
        return position
    if arity == "value":
        # Some arguments' values are optional.
        return position if position >= len(tokens) or tokens[position].startswith("--") else position + 1
    while position < len(tokens) and not tokens[position].startswith("--"):
        position += 1
    return position


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
    model = model_from_flags(values, base.model if base is not None else base_model)
    layers_per_chunk = values.pop("layers_per_chunk", 0)
    parallel = _parallel(values, flags, base, model, layers_per_chunk, num_gpus)
    train = _train(values, base)
    return Configuration(model, parallel, train)


def model_from_flags(values: dict[str, Any], old: ModelSpec | None) -> ModelSpec:
    """The model that the values of flags describe, on top of another one where there is one."""
    own = {k: values[k] for k in values if k in _MODEL}
    if "hidden_dropout" in values or "attention_dropout" in values:
        # Either one keeps masks in memory; Megatron's default for both is 0.1.
        own["dropout"] = values.get("hidden_dropout", 0.1) > 0 or values.get("attention_dropout", 0.1) > 0
    if "padded_vocab_size" in values:
        own["vocab_size"], own["make_vocab_size_divisible_by"] = values["padded_vocab_size"], 1
    if values.get("squared_relu") and own.get("swiglu"):
        raise SpecError("--squared-relu and --swiglu are two activations: give one")
    if old is None:
        needed = {
            "num_layers": "--num-layers",
            "hidden_size": "--hidden-size",
            "num_attention_heads": "--num-attention-heads",
            "seq_length": "--seq-length",
        }
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
    if values.get("megatron_fsdp"):
        strategy = values.get("sharding_strategy", "no_shard")
        own["fsdp"] = strategy == "optim_grads_params"
        own["distributed_optimizer"] = strategy == "optim"
    elif "sharding_strategy" in values:
        raise SpecError("--data-parallel-sharding-strategy needs --use-megatron-fsdp")
    elif own.get("fsdp"):
        own["distributed_optimizer"] = False
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
    _pipeline(values, flags, own, old, model)
    if own.get("vpp", old.vpp) > 1:
        # Megatron overlaps the pipeline's communication whenever it interleaves.
        own.setdefault("overlap_p2p", True)
    else:
        own["overlap_p2p"] = False
    if own.get("tp", old.tp) == 1 and "sequence_parallel" not in own:
        own["sequence_parallel"] = own["tp_comm_overlap"] = False
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


def _pipeline(values: dict[str, Any], flags: Flags, own: dict[str, Any], old: ParallelSpec, model: ModelSpec) -> None:
    """Layers of the stages, where they are not all the same."""
    pp = own.get("pp", old.pp)
    if "pipeline_layout" in values:
        own["layers"] = parse_layout(values["pipeline_layout"], max(1, pp))
        vpp = len(own["layers"]) // max(1, pp)
        if own.get("vpp", vpp) != vpp:
            raise SpecError(
                f"--pipeline-model-parallel-layout has {vpp} chunks a stage, {flags.given['vpp']} says else"
            )
        own["vpp"] = vpp
        return
    vpp = own.get("vpp", old.vpp)
    ends = (values.get("first_stage_layers"), values.get("last_stage_layers"))
    counted = (bool(values.get("embedding_is_a_layer")), bool(values.get("loss_is_a_layer")))
    if (ends != (None, None) or any(counted)) and pp > 0 and vpp > 0:
        own["layers"] = uneven(model.num_layers, pp, vpp, *ends, *counted)
    elif (pp, vpp, model.num_layers) != (old.pp, old.vpp, sum(old.layers)):
        own["layers"] = ()
    if own.get("layers") and len(set(own["layers"])) == 1:
        own["layers"] = ()


def _train(values: dict[str, Any], base: Configuration | None) -> TrainSpec:
    own = step_from_values(values)
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


def step_from_values(values: dict[str, Any]) -> dict[str, Any]:
    """Fields of the training step that the values of flags describe."""
    own = {k: values[k] for k in values if k in _TRAIN}
    if values.get("grads_in_fp32") and values.get("grads_in_bf16"):
        raise SpecError("--accumulate-allreduce-grads-in-fp32 and --grad-reduce-in-bf16 contradict each other")
    if values.get("grads_in_bf16"):
        own["main_grads_dtype"] = "bfloat16"
    elif values.get("grads_in_fp32") or own.get("params_dtype") == "bfloat16":
        own["main_grads_dtype"] = "float32"
    elif own.get("params_dtype") == "float16":
        # Megatron keeps fp32 gradients by default with bf16 only.
        own["main_grads_dtype"] = "float16"
    return own


def emit_flags(configuration: Configuration) -> list[str]:
    """Megatron's flags for a configuration; reading them back gives the same configuration."""
    model, parallel, train = configuration.model, configuration.parallel, configuration.train
    flags = [
        "--num-layers",
        str(model.num_layers),
        "--hidden-size",
        str(model.hidden_size),
        "--ffn-hidden-size",
        str(model.ffn_hidden_size),
        "--num-attention-heads",
        str(model.num_attention_heads),
        "--kv-channels",
        str(model.kv_channels),
        "--seq-length",
        str(model.seq_length),
        "--vocab-size",
        str(model.vocab_size),
        "--make-vocab-size-divisible-by",
        str(model.make_vocab_size_divisible_by),
        "--normalization",
        model.normalization,
        "--position-embedding-type",
        model.position_embedding_type,
    ]
    if model.position_embedding_type == "learned_absolute":
        flags += ["--max-position-embeddings", str(model.max_position_embeddings)]
    if model.num_query_groups != model.num_attention_heads:
        flags += ["--group-query-attention", "--num-query-groups", str(model.num_query_groups)]
    flags += _emit_experts(model) + _emit_latent(model)
    flags += ["--qk-layernorm"] * model.qk_layernorm
    flags += ["--hidden-dropout", "0.0", "--attention-dropout", "0.0"] * (not model.dropout)
    flags += ["--swiglu"] * model.swiglu + ["--disable-bias-linear"] * (not model.add_bias_linear)
    flags += ["--untie-embeddings-and-output-weights"] * model.untie_embeddings_and_output_weights
    flags += [
        "--tensor-model-parallel-size",
        str(parallel.tp),
        "--pipeline-model-parallel-size",
        str(parallel.pp),
    ]
    if parallel.layers:
        flags += ["--pipeline-model-parallel-layout", write_layout(parallel.layers)]
    elif parallel.vpp > 1:
        chunk = model.num_layers // parallel.pp // parallel.vpp
        flags += ["--num-layers-per-virtual-pipeline-stage", str(chunk)]
    flags += ["--no-overlap-p2p-communication"] * (parallel.vpp > 1 and not parallel.overlap_p2p)
    if parallel.cp > 1:
        flags += ["--context-parallel-size", str(parallel.cp)]
    if parallel.ep > 1:
        flags += ["--expert-model-parallel-size", str(parallel.ep)]
    if parallel.expert_tp:
        flags += ["--expert-tensor-parallel-size", str(parallel.expert_tp)]
    flags += ["--sequence-parallel"] * parallel.sequence_parallel
    flags += ["--use-distributed-optimizer"] * parallel.distributed_optimizer
    flags += ["--overlap-grad-reduce"] * parallel.overlap_grad_reduce
    flags += ["--overlap-param-gather"] * parallel.overlap_param_gather
    flags += ["--use-torch-fsdp2"] * parallel.fsdp
    flags += ["--tp-comm-overlap"] * parallel.tp_comm_overlap
    flags += ["--no-async-tensor-model-parallel-allreduce"] * (not parallel.async_tp_allreduce)
    flags += ["--scatter-gather-tensors-in-pipeline"] * parallel.scatter_gather
    flags += ["--no-batch-p2p-comm"] * (not parallel.batch_p2p)
    flags += [
        "--micro-batch-size",
        str(train.micro_batch_size),
        "--global-batch-size",
        str(train.global_batch_size),
        "--attention-backend",
        train.attention_kernel,
    ]
    flags += {"bfloat16": ["--bf16"], "float16": ["--fp16"]}.get(train.params_dtype, [])
    if train.main_grads_dtype == "bfloat16":
        flags.append("--grad-reduce-in-bf16")
    elif train.main_grads_dtype == "float32" and train.params_dtype == "float16":
        flags.append("--accumulate-allreduce-grads-in-fp32")
    flags += ["--fp8-format", train.fp8] if train.fp8 else []
    flags += ["--no-gradient-accumulation-fusion"] * (not train.gradient_accumulation_fusion)
    flags += ["--schedule", train.schedule] if train.schedule != "auto" else []
    if train.recompute_granularity != "none":
        flags += ["--recompute-granularity", train.recompute_granularity]
        if train.recompute_granularity == "full":
            flags += ["--recompute-method", train.recompute_method]
            flags += ["--recompute-num-layers", str(train.recompute_num_layers)]
    return flags


def _emit_experts(model: ModelSpec) -> list[str]:
    if not model.num_experts:
        return []
    flags = [
        "--num-experts",
        str(model.num_experts),
        "--moe-router-topk",
        str(model.moe_router_topk),
        "--moe-ffn-hidden-size",
        str(model.moe_ffn_hidden_size),
    ]
    flags += ["--moe-layer-freq", model.moe_layer_freq] if model.moe_layer_freq != "1" else []
    shared = model.moe_shared_expert_intermediate_size
    flags += ["--moe-shared-expert-intermediate-size", str(shared)] if shared else []
    factor = model.moe_imbalance_factor
    return flags + (["--moe-imbalance-factor", str(factor)] if factor != 1 else [])


def _emit_latent(model: ModelSpec) -> list[str]:
    if not model.multi_latent_attention:
        return []
    flags = ["--multi-latent-attention", "--kv-lora-rank", str(model.kv_lora_rank)]
    flags += ["--q-lora-rank", str(model.q_lora_rank)] if model.q_lora_rank else []
    return [
        *flags,
        "--qk-head-dim",
        str(model.qk_head_dim),
        "--qk-pos-emb-head-dim",
        str(model.qk_pos_emb_head_dim),
        "--v-head-dim",
        str(model.v_head_dim),
    ]
