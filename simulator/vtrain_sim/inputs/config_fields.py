"""Fields of Megatron's configuration objects, and of its parsed arguments, as the flags that ask for the same.

Unlike flags, such a list has every field, most of them with Megatron's defaults: a field that only goes with another
(experts, latent attention, Mamba layers, interleaving) is read where that one is set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vtrain_sim.inputs.captured_config import off_by_default
from vtrain_sim.inputs.flag_lists import refused
from vtrain_sim.inputs.flag_table import LISTS, SWITCHES, VALUES, opposite, whole_number
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.specs.moe_pattern import write_pattern

Fields = Mapping[str, Any]

# Names that are not those of the flags.
_RENAMED = {
    "virtual_pipeline_model_parallel_size": "num_virtual_stages_per_pipeline_rank",
    "num_moe_experts": "num_experts",
    "fp8": "fp8_format",
    "fp4": "fp4_format",
    "bucket_size": "ddp_bucket_size",
    "overlap_p2p_comm": "overlap_p2p_communication",
    "microbatch_group_size_per_vp_stage": "microbatch_group_size_per_virtual_pipeline_stage",
    "num_layers_in_first_pipeline_stage": "decoder_first_pipeline_num_layers",
    "num_layers_in_last_pipeline_stage": "decoder_last_pipeline_num_layers",
    "hybrid_override_pattern": "hybrid_layer_pattern",
    "cuda_graph_modules": "cuda_graph_scope",
    "cpu_offloading_num_layers": "",
    "encoder_num_layers": "",
    "encoder_seq_length": "",
    "num_layers_per_virtual_pipeline_stage": "",
    "data_parallel_size": "",
    "data_parallel_sharding_strategy": "",
    "num_query_groups": "",
    "group_query_attention": "",
    "moe_flex_dispatcher_backend": "",
    "moe_enable_deepep": "",
    "padded_vocab_size": "",
    "vocab_size": "",
    "position_embedding_type": "",
    "use_rotary_position_embeddings": "",
    "add_position_embedding": "",
    "recompute_activations": "",
    "bf16": "",
    "fp16": "",
    "enable_cuda_graph": "",
    "external_cuda_graph": "",
    "use_flash_attn": "",
    "gated_linear_unit": "",
    "transformer_impl": "",
    "attention_backend": "",
    "main_grads_dtype": "",
    "main_params_dtype": "",
    "exp_avg_dtype": "",
    "exp_avg_sq_dtype": "",
}
_BACKENDS = ("flash", "fused", "unfused", "local", "auto")


def flags_of_fields(fields: Fields, what: str) -> list[str]:
    """Flags for fields. what: the file that has them, for messages. Raises `SpecError` for what is not simulated."""
    _refuse_others(fields, what)
    tokens: list[str] = []
    for name, value in fields.items():
        flag = "--" + _RENAMED.get(name, name).replace("_", "-")
        if value is None or value == "" or flag == "--" or not _applies(name, fields, what):
            continue
        tokens += _tokens(flag, value)
    return [*tokens, *_special(fields)]


def _applies(name: str, fields: Fields, what: str) -> bool:
    """Whether a field goes with something that is set. Raises `SpecError` for a number of chunks that is none."""
    experts, chunks = fields.get("num_experts") or fields.get("num_moe_experts"), _chunks(fields, what)
    groups: tuple[tuple[Callable[[str], bool], object], ...] = (
        (lambda one: one.startswith(("moe_", "overlap_moe", "expert_tensor")), experts),
        (lambda one: one in _LATENT, fields.get("multi_latent_attention")),
        (lambda one: one.startswith(("mamba_", "hybrid_", "mtp_hybrid")), _hybrid(fields)),
        (lambda one: one.startswith("fp8_"), fields.get("fp8") or fields.get("fp8_format")),
        (lambda one: one.startswith("recompute_"), fields.get("recompute_granularity")),
        (lambda one: one == "recompute_modules", fields.get("recompute_granularity") == "selective"),
        (
            lambda one: one in ("recompute_method", "recompute_num_layers"),
            fields.get("recompute_granularity") == "full",
        ),
        (lambda one: one.startswith(("microbatch_group", "overlap_p2p")), chunks > 1),
        (lambda one: one == "cross_entropy_fusion_impl", fields.get("cross_entropy_loss_fusion")),
        (lambda one: one.startswith("num_layers_at_"), fields.get("first_last_layers_bf16")),
        (lambda one: one.startswith("cuda_graph"), fields.get("cuda_graph_impl") not in (None, "", "none")),
        (lambda one: one == "mtp_use_repeated_layer", fields.get("mtp_num_layers")),
        (lambda one: one.startswith("virtual_pipeline"), chunks > 1),
        (lambda one: one == "window_attn_skip_freq", fields.get("window_size")),
    )
    return all(bool(on) for is_of, on in groups if is_of(name))


_LATENT = ("q_lora_rank", "kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim", "v_head_dim")


def _hybrid(fields: Fields) -> object:
    return fields.get("is_hybrid_model") or fields.get("hybrid_layer_pattern") or fields.get("hybrid_override_pattern")


def _chunks(fields: Fields, what: str) -> int:
    name = "virtual_pipeline_model_parallel_size"
    return whole_number(f"{what}: {name}", str(fields.get(name) or 1))


def _tokens(flag: str, value: object) -> list[str]:
    """An argument with its value, where it is one that is read."""
    if flag == "--cp-comm-type" and isinstance(value, str):
        return [flag, value]
    if flag in LISTS and isinstance(value, (list, tuple)):
        return [flag, *map(str, value)] if value else []
    if isinstance(value, bool):
        if flag in SWITCHES:
            return [flag] if value else ([opposite(flag)] if opposite(flag) in SWITCHES else [])
        return []
    if flag not in VALUES:
        return []
    if flag in ("--moe-layer-freq", "--window-attn-skip-freq") and isinstance(value, (list, tuple)):
        return [flag, write_pattern(list(value))]
    if flag == "--window-size" and isinstance(value, (list, tuple)):
        return [flag, ",".join(map(str, value))]
    return [flag, str(value)] if isinstance(value, (str, int, float)) else []


def _special(fields: Fields) -> list[str]:
    """What needs several fields, or has another shape than its flag."""
    tokens = []
    groups, heads = fields.get("num_query_groups"), fields.get("num_attention_heads")
    if groups and fields.get("group_query_attention", groups != heads):
        tokens += ["--group-query-attention", "--num-query-groups", str(groups)]
    if fields.get("vocab_size"):
        tokens += ["--vocab-size", str(fields["vocab_size"])]
    elif fields.get("padded_vocab_size"):
        tokens += ["--padded-vocab-size", str(fields["padded_vocab_size"])]
    position = fields.get("position_embedding_type")
    if fields.get("use_rotary_position_embeddings"):
        position = "rope"
    elif fields.get("add_position_embedding") is False and position == "learned_absolute":
        position = "none"
    tokens += ["--position-embedding-type", str(position)] if position else []
    tokens += [f"--{_precision(fields)}"]
    if fields.get("gated_linear_unit") or fields.get("swiglu"):
        tokens.append("--swiglu")
    if fields.get("moe_token_dispatcher_type") == "flex":
        tokens += ["--moe-flex-dispatcher-backend", str(fields.get("moe_flex_dispatcher_backend") or "deepep")]
    if fields.get("use_megatron_fsdp"):
        tokens += [
            "--data-parallel-sharding-strategy",
            str(fields.get("data_parallel_sharding_strategy") or "no_shard"),
        ]
    backend = word_of(fields.get("attention_backend"))
    if fields.get("transformer_impl") == "local":
        tokens += ["--transformer-impl", "local"]
    elif backend in _BACKENDS:
        tokens += ["--attention-backend", backend]
    if fields.get("use_precision_aware_optimizer"):
        for name in ("main_grads_dtype", "main_params_dtype", "exp_avg_dtype", "exp_avg_sq_dtype"):
            if dtype := word_of(fields.get(name)):
                tokens += [f"--{name.replace('_', '-')}", _SHORT.get(dtype, dtype)]
    return tokens


_SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "uint8": "fp8", "float8_e4m3fn": "fp8"}


def _precision(fields: Fields) -> str:
    for name in ("bf16", "fp16"):
        if fields.get(name):
            return name
    return {"bfloat16": "bf16", "float16": "fp16"}.get(word_of(fields.get("params_dtype")), "fp32")


def word_of(value: object) -> str:
    """The last part of a name: "bfloat16" of ``torch.bfloat16``, "flash" of an enumeration's ``AttnBackend.flash``."""
    if isinstance(value, Mapping):
        inner = value.get("_name_") or value.get("_args_") or value.get("_target_")
        value = inner[0] if isinstance(inner, (list, tuple)) and inner else inner
    return str(value or "").rpartition(".")[2].strip("'>")


def _refuse_others(fields: Fields, what: str) -> None:
    """Raise `SpecError` for fields that ask for what the flags of the same name ask for, and is not simulated."""
    narrow = bool(fields.get("fp8") or fields.get("fp8_format"))
    for name in off_by_default(narrow, bool(fields.get("tp_comm_overlap"))):
        value = fields.get(name)
        refusal = refused()["--" + name.replace("_", "-")]
        if (others := refusal.others(value)) and _applies(name, fields, what):
            raise SpecError(
                f"{what}: {name} is {value}: {refusal.sentence(str(others[0]) if refusal.simulated else '')}"
            )
