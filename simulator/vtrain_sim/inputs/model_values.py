"""The model that the values of Megatron's flags describe."""

from __future__ import annotations

from dataclasses import fields, replace

from vtrain_sim.file_table import SpecFields
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.specs.hybrid_pattern import read_pattern
from vtrain_sim.specs.model import ModelSpec

_MODEL = {f.name for f in fields(ModelSpec)}
# GPT-2's, where a tokenizer says the vocabulary and no argument does.
ASSUMED_VOCABULARY = 50257
_ROUTER_TOPK = 2  # Megatron's default
_ROTARY = ("rope", "yarn")
_ACTIVATIONS = {"squared_relu": "--squared-relu", "swiglu": "--swiglu", "quick_geglu": "--quick-geglu"}
_NEEDED = {
    "num_layers": "--num-layers",
    "hidden_size": "--hidden-size",
    "num_attention_heads": "--num-attention-heads",
    "seq_length": "--seq-length",
}


def model_from_values(values: SpecFields, old: ModelSpec | None) -> ModelSpec:
    """The model that the values of flags describe, on top of another one where there is one. Raises `SpecError`."""
    changes = {k: values[k] for k in values if k in _MODEL}
    if "hidden_dropout" in values or "attention_dropout" in values:
        # Either one keeps masks in memory; Megatron's default for both is 0.1.
        changes["dropout"] = values.get("hidden_dropout", 0.1) > 0 or values.get("attention_dropout", 0.1) > 0
    if values.get("add_position_embedding") is False and changes.get("position_embedding_type") not in _ROTARY:
        # Megatron's rotary embeddings go before this older word.
        changes["position_embedding_type"] = "none"
    if changes.get("num_experts") and not (old is not None and old.num_experts):
        changes.setdefault("moe_router_topk", _ROUTER_TOPK)
    if values.get("packs") and not changes.get("packed_lengths", old.packed_lengths if old is not None else ()):
        raise SpecError(
            "--sft and --dataloader-inter-document-masking pack samples into a sequence, each of which attends to "
            "itself alone: say with --packed-lengths how long they are, or on the mean"
        )
    _query_groups(values, changes, old)
    _hybrid(values, changes, old)
    if "padded_vocab_size" in values:
        changes["vocab_size"], changes["make_vocab_size_divisible_by"] = values["padded_vocab_size"], 1
    _check_activations(values)
    # The activation that is given goes before that of the model below.
    if values.get("quick_geglu"):
        changes["swiglu"] = True
    for name, other in (("squared_relu", "swiglu"), ("swiglu", "squared_relu"), ("swiglu", "quick_geglu")):
        if changes.get(name):
            changes.setdefault(other, False)
    if changes.get("swiglu") is False:
        changes.setdefault("quick_geglu", False)
    if old is None:
        missing = [flag for name, flag in _NEEDED.items() if name not in changes]
        if missing:
            raise SpecError(f"the model is incomplete: {', '.join(missing)} missing")
        changes.setdefault("vocab_size", ASSUMED_VOCABULARY)
        return ModelSpec(**changes)
    _follow(changes, old)
    return replace(old, **changes)


def _check_activations(values: SpecFields) -> None:
    """Raise `SpecError` where flags ask for several activations, as Megatron does."""
    given = [flag for name, flag in _ACTIVATIONS.items() if values.get(name)]
    if len(given) > 1:
        raise SpecError(f"{' and '.join(given)} are two activations: give one")


def _follow(changes: SpecFields, old: ModelSpec) -> None:
    """Defaults that follow other sizes follow their new values, as in Megatron itself."""
    changed = {name for name, value in changes.items() if value != getattr(old, name)}
    if changed & {"hidden_size", "swiglu"}:
        changes.setdefault("ffn_hidden_size", 0)
    # A head size of its own, and the heads of Mamba layers, which every hybrid preset gives, are no such defaults.
    derived = old.kv_channels * old.num_attention_heads == old.hidden_size
    if derived and changed & {"hidden_size", "num_attention_heads"}:
        changes.setdefault("kv_channels", 0)
    if "num_attention_heads" in changed and old.num_query_groups == old.num_attention_heads:
        changes.setdefault("num_query_groups", 0)
    if "seq_length" in changed and old.max_position_embeddings == old.seq_length:
        changes.setdefault("max_position_embeddings", 0)


def _hybrid(values: SpecFields, changes: SpecFields, old: ModelSpec | None) -> None:
    """Megatron says a hybrid model's layers, and those of its multi-token prediction, in one pattern."""
    text = changes.get("hybrid_layer_pattern")
    if values.get("is_hybrid_model") and not (text or (old is not None and old.hybrid_layer_pattern)):
        raise SpecError("--is-hybrid-model needs --hybrid-layer-pattern: layers by their ratios are not simulated")
    if not text:
        return
    pattern = read_pattern(text)
    changes["hybrid_layer_pattern"] = pattern.layers
    changes.setdefault("num_layers", len(pattern.layers))
    if pattern.mtp:
        if changes.setdefault("mtp_num_layers", pattern.depths) != pattern.depths:
            raise SpecError(
                f"--hybrid-layer-pattern has {pattern.depths} depths of multi-token prediction, --mtp-num-layers is "
                f"{changes['mtp_num_layers']}"
            )
        if changes.setdefault("mtp_hybrid_override_pattern", pattern.mtp) != pattern.mtp:
            raise SpecError("--mtp-hybrid-override-pattern and --hybrid-layer-pattern say other layers: give one")


def _query_groups(values: SpecFields, changes: SpecFields, old: ModelSpec | None) -> None:
    """Megatron-LM reads the number of groups only with the switch, and takes 1 where it is not given."""
    grouped = old is not None and old.num_query_groups != old.num_attention_heads
    switch = values.get("group_query_attention", grouped)
    groups, heads = changes.get("num_query_groups", 0), changes.get("num_attention_heads", 0)
    if not switch:
        if groups not in (0, heads or (old.num_attention_heads if old is not None else 0)):
            raise SpecError(
                f"--num-query-groups {groups} needs --group-query-attention: without, each head has its own"
            )
        changes["num_query_groups"] = 0
    elif not grouped:
        changes.setdefault("num_query_groups", 1)
