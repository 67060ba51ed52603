"""What users are told about flags that are accepted: those that are left out, those that have no effect."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vtrain_sim.inputs.flag_lists import numerics
from vtrain_sim.inputs.lookup import left_out_of_model
from vtrain_sim.inputs.megatron_emit import own_flags
from vtrain_sim.inputs.megatron_flags import Flags, parse_flags
from vtrain_sim.inputs.model_values import ASSUMED_VOCABULARY
from vtrain_sim.inputs.presets import PREDICTION
from vtrain_sim.specs.config import Configuration
from vtrain_sim.specs.model import ModelSpec

# Values that only a mixture of experts, and only multi-latent attention has a use for.
_EXPERTS = (
    "moe_router_topk",
    "moe_ffn_hidden_size",
    "moe_layer_freq",
    "moe_token_dispatcher",
    "moe_shared_expert_overlap",
)
_LATENT = ("q_lora_rank", "kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim", "v_head_dim")


def approximations(flags: Sequence[str]) -> tuple[str, ...]:
    """One sentence about the flags that change time or memory in a way that is not simulated, if there are any.

    Raises `SpecError` as `parse_flags` does.
    """
    named = parse_flags(flags).approximated
    if not named:
        return ()
    change, are = ("changes", "is") if len(named) == 1 else ("change", "are")
    return (f"{', '.join(named)} {change} time or memory somewhat, which {are} left out of the projection",)


def not_megatrons(configuration: Configuration) -> tuple[str, ...]:
    """A sentence about what the flags for Megatron (`megatron_emit.emit_flags`) cannot ask for, if there is any."""
    flags = own_flags(configuration)
    what = {
        "--expandable-segments": "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True asks for it",
        "--fp32": "Megatron's default, vtrain's is bf16",
        "--no-moe-grouped-gemm": "Megatron's default, vtrain's is --moe-grouped-gemm",
    }
    if not flags:
        return ()
    said = [f"{flag} ({what[flag]})" if flag in what else flag for flag in flags]
    return (f"no arguments of Megatron-Core, left out of those printed, but projected: {' '.join(said)}",)


def without_effect(flags: Sequence[str], model: ModelSpec, job: Configuration | None = None) -> tuple[str, ...]:
    """Sentences about the flags that this model has no use for: Megatron-Core accepts and ignores them too.

    job: what the flags describe together with a captured run, whose settings they may go with; None: the flags say all.
    Raises `SpecError` as `parse_flags` does.
    """
    read = parse_flags(flags)
    tp = read.values.get("tp", 1) if job is None else job.parallel.tp
    narrow = read.values.get("fp8") or read.values.get("fp4") if job is None else job.train.precision.casts_inputs
    sentences = []
    if not model.num_experts:
        sentences += _sentence(read, _EXPERTS, "the model has no experts (--num-experts)")
    if not model.multi_latent_attention:
        sentences += _sentence(read, _LATENT, "the model has no latent attention (--multi-latent-attention)")
    elif read.values.get("tp_comm_overlap"):
        why = "Megatron-Core switches it off for latent attention (--multi-latent-attention)"
        sentences += _sentence(read, ["tp_comm_overlap"], why)
    if tp == 1 and read.values.get("sequence_parallel"):
        sentences += _sentence(read, ["sequence_parallel"], "--tensor-model-parallel-size is 1")
    for field in ("ramp_up", "final_batch"):
        if field in read.given:
            sentences.append(f"{read.given[field]}: the projection is of the final global batch")
    if read.values.get("transformer_impl") == "local" and read.values.get("attention_kernel") == "flash":
        sentences += _sentence(read, ["attention_kernel"], "--transformer-impl local has unfused attention alone")
    if read.values.get("megatron_fsdp") and "sharding_strategy" not in read.values:
        why = "--data-parallel-sharding-strategy is no_shard by default"
        sentences += _sentence(read, ["megatron_fsdp"], why)
    if not narrow:
        sentences += _sentence(read, ["first_last_layers_bf16"], "no layer is in 8 or 4 bits")
    if not read.values.get("megatron_fsdp"):
        sentences += _sentence(read, ["sharding_strategy"], "--use-megatron-fsdp is not given")
    return tuple(sentences)


def defaults_taken(flags: Sequence[str]) -> tuple[str, ...]:
    """Sentences about what flags do not say, where Megatron's default is taken. Raises `SpecError` as `parse_flags`."""
    if {"global_batch_size", "final_batch"} & set(parse_flags(flags).values):
        return ()
    return ("no --global-batch-size: as in Megatron, one microbatch of each data parallel rank",)


def not_printed(flags: Sequence[str]) -> tuple[str, ...]:
    """Sentences on what the flags that are printed for a configuration do not say. flags: those that were given.

    Raises `SpecError` as `parse_flags` does.
    """
    words = (token.partition("=")[0] for token in flags)
    named = dict.fromkeys((*(word for word in words if word in numerics()), *parse_flags(flags).approximated))
    lost = (f"given, but not among the flags printed, to be kept: {', '.join(named)}",) if named else ()
    return (
        "the flags printed are those of model, layout and step: they go beside the job's other arguments (data, "
        "tokenizer, learning rate, rotary base and the like)",
        *lost,
    )


def vocabulary_assumed(flags: Sequence[str], model: str, size: int = ASSUMED_VOCABULARY) -> tuple[str, ...]:
    """A sentence where nothing says the size of the vocabulary. model: preset or file, which does; size: that taken.

    Raises `SpecError` as `parse_flags` does.
    """
    if model or {"vocab_size", "padded_vocab_size"} & set(parse_flags(flags).values):
        return ()
    return (f"the vocabulary is the tokenizer's: {size:,} assumed; give --vocab-size",)


def left_out(name: str, model: ModelSpec) -> tuple[str, ...]:
    """Sentences about what a preset or file has and its projection has not. model: as it is projected."""
    added = bool(model.mtp_num_layers)
    return tuple(one for one in left_out_of_model(name) if not (added and one.endswith(PREDICTION)))


def _sentence(read: Flags, fields: Iterable[str], why: str) -> list[str]:
    named = [read.given[field] for field in fields if field in read.given]
    if not named:
        return []
    return [f"{', '.join(named)} {'has' if len(named) == 1 else 'have'} no effect: {why}"]
