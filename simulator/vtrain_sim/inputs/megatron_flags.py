"""Reads Megatron's own command-line flags into a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from vtrain_sim.errors import nearest
from vtrain_sim.file_table import SpecFields
from vtrain_sim.inputs.flag_lists import approximated, refused
from vtrain_sim.inputs.flag_table import SWITCHES, VALUES, arity, known_flags
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.specs.config import Configuration
from vtrain_sim.specs.model import ModelSpec
from vtrain_sim.specs.parallel import ParallelSpec
from vtrain_sim.specs.pipeline_layout import parse_layout, uneven
from vtrain_sim.specs.precision import precision_of
from vtrain_sim.specs.train import TrainSpec

_MODEL = {f.name for f in fields(ModelSpec)}
_PARALLEL = {f.name for f in fields(ParallelSpec)}
_TRAIN = {f.name for f in fields(TrainSpec)}


@dataclass(frozen=True)
class Flags:
    """Values read from flags, by field name."""

    values: SpecFields
    given: dict[str, str]  # field -> the flag that gave it
    approximated: tuple[str, ...]
    """Flags that change time or memory in a way that is not simulated, as they were given."""


def parse_flags(tokens: Sequence[str]) -> Flags:
    """Read a list of arguments; raises `SpecError` for an unknown or malformed one.

    Megatron's arguments that change neither time nor memory are accepted and left out.
    """
    values: SpecFields = {}
    given: dict[str, str] = {}
    approximate: dict[str, None] = {}
    position = 0
    while position < len(tokens):
        flag, following, position = _next(tokens, position)
        if flag in SWITCHES:
            field, constant = SWITCHES[flag]
            values[field], given[field] = constant, flag
        elif flag in VALUES:
            if not following:
                raise SpecError(f"{flag} needs a value")
            field, read = VALUES[flag]
            values[field], given[field] = read(flag, following[0]), flag
        elif flag in refused():
            _refuse(flag, following)
        elif flag in approximated():
            approximate[flag] = None
    return Flags(values, given, tuple(approximate))


def _next(tokens: Sequence[str], position: int) -> tuple[str, list[str], int]:
    """A flag, what follows it, and the position of the next one. Raises `SpecError` for an unknown one."""
    flag, equals, inline = tokens[position].partition("=")
    takes = arity(flag)
    if takes is None:
        raise SpecError(f"unknown argument {tokens[position]!r}{nearest(flag, known_flags())}")
    begin = position + 1
    if equals:
        if takes == "switch":
            raise SpecError(f"{tokens[position]} gives a value to a switch: give {flag} alone")
        return flag, [inline], begin
    end = begin
    if flag in VALUES:
        end = min(begin + 1, len(tokens))
    else:
        # Some arguments' values are optional.
        most = {"switch": 0, "value": 1}.get(takes, len(tokens))
        while end < min(begin + most, len(tokens)) and not tokens[end].startswith("--"):
            end += 1
    return flag, list(tokens[begin:end]), end


def _refuse(flag: str, values: Sequence[str]) -> None:
    """Refuse an argument unless all its values are simulated."""
    refusal = refused()[flag]
    other = [value for value in values if value not in refusal.simulated]
    if other or not (refusal.simulated and values):
        raise SpecError(refusal.sentence(other[0] if other and refusal.simulated else ""))


def approximations(flags: Sequence[str]) -> tuple[str, ...]:
    """One sentence about the flags that change time or memory in a way that is not simulated, if there are any.

    Raises `SpecError` as `parse_flags` does.
    """
    named = parse_flags(flags).approximated
    if not named:
        return ()
    change, are = ("changes", "is") if len(named) == 1 else ("change", "are")
    return (f"{', '.join(named)} {change} time or memory somewhat, which {are} left out of the projection",)


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


def model_from_flags(values: SpecFields, old: ModelSpec | None) -> ModelSpec:
    """The model that the values of flags describe, on top of another one where there is one."""
    changes = {k: values[k] for k in values if k in _MODEL}
    if "hidden_dropout" in values or "attention_dropout" in values:
        # Either one keeps masks in memory; Megatron's default for both is 0.1.
        changes["dropout"] = values.get("hidden_dropout", 0.1) > 0 or values.get("attention_dropout", 0.1) > 0
    _query_groups(values, changes, old)
    if "padded_vocab_size" in values:
        changes["vocab_size"], changes["make_vocab_size_divisible_by"] = values["padded_vocab_size"], 1
    if values.get("squared_relu") and changes.get("swiglu"):
        raise SpecError("--squared-relu and --swiglu are two activations: give one")
    if old is None:
        needed = {
            "num_layers": "--num-layers",
            "hidden_size": "--hidden-size",
            "num_attention_heads": "--num-attention-heads",
            "seq_length": "--seq-length",
        }
        missing = [flag for name, flag in needed.items() if name not in changes]
        if missing:
            raise SpecError(f"the model is incomplete: {', '.join(missing)} missing")
        changes.setdefault("vocab_size", 50257)
        return ModelSpec(**changes)
    # Defaults that follow other sizes follow their new values, as in Megatron itself.
    if "hidden_size" in changes or "swiglu" in changes:
        changes.setdefault("ffn_hidden_size", 0)
    if "hidden_size" in changes or "num_attention_heads" in changes:
        changes.setdefault("kv_channels", 0)
    if "num_attention_heads" in changes and old.num_query_groups == old.num_attention_heads:
        changes.setdefault("num_query_groups", 0)
    if "seq_length" in changes and old.max_position_embeddings == old.seq_length:
        changes.setdefault("max_position_embeddings", 0)
    return replace(old, **changes)


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


def _parallel(
    values: SpecFields,
    flags: Flags,
    base: Configuration | None,
    model: ModelSpec,
    layers_per_chunk: int,
    num_gpus: int,
) -> ParallelSpec:
    changes = parallel_from_values(values)
    old = base.parallel if base is not None else ParallelSpec()
    _cut_into_chunks(flags, changes, old, model, layers_per_chunk)
    _pipeline(values, flags, changes, old, model)
    if changes.get("vpp", old.vpp) > 1:
        # Megatron overlaps the pipeline's communication whenever it interleaves.
        changes.setdefault("overlap_p2p", True)
    else:
        changes["overlap_p2p"] = False
        changes.setdefault("microbatch_group_size", 0)
    if changes.get("tp", old.tp) == 1 and "sequence_parallel" not in changes:
        changes["sequence_parallel"] = changes["tp_comm_overlap"] = False
    if num_gpus:
        _fill_world(changes, old, num_gpus)
    return replace(old, **changes)


def parallel_from_values(values: SpecFields) -> SpecFields:
    """Fields of the layout that the values of flags describe, except for how layers are cut into stages."""
    changes = {k: values[k] for k in values if k in _PARALLEL}
    _shard_optimizer(values, changes)
    return changes


def _shard_optimizer(values: SpecFields, changes: SpecFields) -> None:
    """What is sharded over the data parallel ranks, from Megatron's two ways to say it."""
    if values.get("megatron_fsdp") is False:
        changes.setdefault("fsdp", False)
    if values.get("megatron_fsdp"):
        strategy = values.get("sharding_strategy", "no_shard")
        changes["fsdp"] = strategy == "optim_grads_params"
        changes["distributed_optimizer"] = strategy == "optim"
    elif "sharding_strategy" in values:
        raise SpecError("--data-parallel-sharding-strategy needs --use-megatron-fsdp")
    elif changes.get("fsdp"):
        changes["distributed_optimizer"] = False


def _cut_into_chunks(
    flags: Flags, changes: SpecFields, old: ParallelSpec, model: ModelSpec, layers_per_chunk: int
) -> None:
    """Virtual pipeline chunks, from the layers of one."""
    pp = changes.get("pp", old.pp)
    if layers_per_chunk:
        if "vpp" in changes:
            raise SpecError(f"{flags.given['vpp']} and --num-layers-per-virtual-pipeline-stage say the same: give one")
        if layers_per_chunk < 0 or pp < 1 or model.num_layers % pp or (model.num_layers // pp) % layers_per_chunk:
            raise SpecError(
                f"--num-layers-per-virtual-pipeline-stage is {layers_per_chunk}, which does not divide the "
                f"layers of a pipeline stage ({model.num_layers} over {pp})"
            )
        changes["vpp"] = model.num_layers // pp // layers_per_chunk
    elif pp == 1:
        changes.setdefault("vpp", 1)


def _fill_world(changes: SpecFields, old: ParallelSpec, num_gpus: int) -> None:
    """The data parallel size that so many GPUs leave."""
    model_ranks = changes.get("tp", old.tp) * changes.get("pp", old.pp) * changes.get("cp", old.cp)
    if model_ranks < 1 or num_gpus % model_ranks:
        raise SpecError(
            f"--num-gpus is {num_gpus}, which is not a multiple of tensor x pipeline x context parallel "
            f"size ({model_ranks})"
        )
    if "dp" in changes and changes["dp"] * model_ranks != num_gpus:
        raise SpecError(
            f"--data-parallel-size {changes['dp']} and --num-gpus {num_gpus} disagree: "
            f"{num_gpus} GPUs make {num_gpus // model_ranks}"
        )
    changes["dp"] = num_gpus // model_ranks


def _pipeline(values: SpecFields, flags: Flags, changes: SpecFields, old: ParallelSpec, model: ModelSpec) -> None:
    """Layers of the stages, where they are not all the same."""
    pp = changes.get("pp", old.pp)
    if "pipeline_layout" in values:
        changes["layers"] = parse_layout(values["pipeline_layout"], max(1, pp))
        vpp = len(changes["layers"]) // max(1, pp)
        if changes.get("vpp", vpp) != vpp:
            raise SpecError(
                f"--pipeline-model-parallel-layout has {vpp} chunks per stage, {flags.given['vpp']} says else"
            )
        changes["vpp"] = vpp
        return
    vpp = changes.get("vpp", old.vpp)
    ends = (values.get("first_stage_layers"), values.get("last_stage_layers"))
    counted = (bool(values.get("embedding_is_a_layer")), bool(values.get("loss_is_a_layer")))
    if (ends != (None, None) or any(counted)) and pp > 0 and vpp > 0:
        changes["layers"] = uneven(model.num_layers, pp, vpp, *ends, *counted)
    elif (pp, vpp, model.num_layers) != (old.pp, old.vpp, sum(old.layers)):
        changes["layers"] = ()
    if changes.get("layers") and len(set(changes["layers"])) == 1:
        changes["layers"] = ()


def _train(values: SpecFields, base: Configuration | None) -> TrainSpec:
    changes = step_from_values(values)
    if base is not None:
        return replace(base.train, **changes)
    for name, flag in (
        ("micro_batch_size", "--micro-batch-size"),
        ("global_batch_size", "--global-batch-size"),
    ):
        if name not in changes:
            raise SpecError(f"the training step is incomplete: {flag} missing")
    changes.setdefault("params_dtype", "bfloat16")
    return TrainSpec(**changes)


def step_from_values(values: SpecFields) -> SpecFields:
    """Fields of the training step that the values of flags describe."""
    changes = {k: values[k] for k in values if k in _TRAIN}
    if values.get("transformer_impl") == "local":
        changes["attention_kernel"] = "unfused"
    elif "transformer_impl" in values:
        changes.setdefault("attention_kernel", "flash")
    if values.get("grads_in_fp32") and values.get("grads_in_bf16"):
        raise SpecError("--accumulate-allreduce-grads-in-fp32 and --grad-reduce-in-bf16 contradict each other")
    if values.get("grads_in_bf16"):
        changes["main_grads_dtype"] = "bfloat16"
    elif values.get("grads_in_fp32"):
        changes["main_grads_dtype"] = "float32"
    elif "params_dtype" in changes:
        changes["main_grads_dtype"] = precision_of(changes["params_dtype"]).main_grads_dtype
    return changes
