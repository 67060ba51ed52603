"""The parallel layout that the values of Megatron's flags describe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from vtrain_sim.file_table import SpecFields
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.specs.context_parallel import HIERARCHICAL, check_hierarchy
from vtrain_sim.specs.hybrid_pattern import read_pattern
from vtrain_sim.specs.model import ModelSpec
from vtrain_sim.specs.optimizer import DIST_MUON
from vtrain_sim.specs.parallel import ParallelSpec
from vtrain_sim.specs.pipeline_layout import parse_layout, uneven

_PARALLEL = {f.name for f in fields(ParallelSpec)}

_MOST_GPUS = 1 << 24


def layout_from_values(
    values: SpecFields, given: Mapping[str, str], old: ParallelSpec, model: ModelSpec, num_gpus: int
) -> ParallelSpec:
    """The layout, on top of another one. given: the flag of each value. num_gpus: world size, 0: as the layout needs.

    Raises `SpecError`.
    """
    changes = parallel_from_values(values, old)
    _cut_into_chunks(values, given, changes, old, model)
    _pipeline(values, given, changes, old, model)
    if changes.get("vpp", old.vpp) > 1:
        # Megatron overlaps the pipeline's communication whenever it interleaves.
        changes.setdefault("overlap_p2p", old.overlap_p2p or old.vpp == 1)
    else:
        changes["overlap_p2p"] = False
        changes.setdefault("microbatch_group_size", 0)
    if changes.get("tp", old.tp) == 1:
        # As Megatron does, with a warning.
        changes["sequence_parallel"] = False
        changes.setdefault("tp_comm_overlap", False)
    if num_gpus:
        _fill_world(changes, old, num_gpus)
    layout = replace(old, **changes)
    if values.get("padded_vocab_size", 0) % layout.tp:
        raise SpecError(
            f"--padded-vocab-size is {values['padded_vocab_size']}, which --tensor-model-parallel-size {layout.tp} "
            "does not divide: give --vocab-size and --make-vocab-size-divisible-by to have it padded"
        )
    return layout


def parallel_from_values(values: SpecFields, old: ParallelSpec | None = None) -> SpecFields:
    """Fields of the layout that the values of flags describe, except for how layers are cut into stages.

    old: the layout that they go on top of. Raises `SpecError`.
    """
    changes = {k: values[k] for k in values if k in _PARALLEL}
    _shard_optimizer(values, changes)
    _flex_backend(values, changes, (old or ParallelSpec()).moe_token_dispatcher)
    _context_groups(values, changes)
    return changes


def _context_groups(values: SpecFields, changes: SpecFields) -> None:
    """The inner of two levels of context parallel ranks: what is left are the outer ones."""
    if "cp_hierarchy" in values:
        changes["cp_a2a_size"], _ = values["cp_hierarchy"]
        if "cp" in values:
            check_hierarchy(values["cp_hierarchy"], values["cp"])
    elif changes.get("cp_comm_type", HIERARCHICAL) != HIERARCHICAL:
        changes["cp_a2a_size"] = 0


def _flex_backend(values: SpecFields, changes: SpecFields, before: str) -> None:
    """The kernels of Megatron's flex dispatcher are dispatchers of their own here; DeepEP's are its default."""
    backend = values.get("moe_flex_backend", "deepep" if values.get("moe_deepep") else "")
    if changes.get("moe_token_dispatcher") == "flex":
        changes["moe_token_dispatcher"] = backend or "deepep"
    elif backend and changes.get("moe_token_dispatcher", backend) != backend:
        raise SpecError("--moe-flex-dispatcher-backend needs --moe-token-dispatcher-type flex")
    elif values.get("moe_deepep") and changes.get("moe_token_dispatcher", before) != "deepep":
        raise SpecError("--moe-enable-deepep needs --moe-token-dispatcher-type flex")


def _shard_optimizer(values: SpecFields, changes: SpecFields) -> None:
    """What is sharded over the data parallel ranks, from Megatron's ways to say it."""
    if values.get("optimizer") == DIST_MUON:
        changes["distributed_optimizer"] = True
    if values.get("megatron_fsdp") is False:
        changes.setdefault("fsdp", False)
    if values.get("megatron_fsdp"):
        strategy = values.get("sharding_strategy", "no_shard")
        changes["fsdp"] = strategy == "optim_grads_params"
        changes["distributed_optimizer"] = strategy == "optim"
        if strategy != "optim":
            # Gathers of whole layers run beside the passes anyway (`specs.config`); without shards there are none.
            changes["overlap_param_gather"] = False
    elif changes.get("fsdp"):
        changes["distributed_optimizer"] = False


def _cut_into_chunks(
    values: SpecFields, given: Mapping[str, str], changes: SpecFields, old: ParallelSpec, model: ModelSpec
) -> None:
    """Virtual pipeline chunks, from the layers of one."""
    pp = changes.get("pp", old.pp)
    if "layers_per_chunk" in values:
        layers_per_chunk = values["layers_per_chunk"]
        if "vpp" in changes:
            raise SpecError(f"{given['vpp']} and --num-layers-per-virtual-pipeline-stage say the same: give one")
        if layers_per_chunk < 1 or pp < 1 or model.num_layers % pp or (model.num_layers // pp) % layers_per_chunk:
            raise SpecError(
                f"--num-layers-per-virtual-pipeline-stage is {layers_per_chunk}, which does not divide the "
                f"layers of a pipeline stage ({model.num_layers} over {pp})"
            )
        changes["vpp"] = model.num_layers // pp // layers_per_chunk
    elif pp == 1:
        changes.setdefault("vpp", 1)


def _fill_world(changes: SpecFields, old: ParallelSpec, num_gpus: int) -> None:
    """The data parallel size that so many GPUs leave."""
    if num_gpus > _MOST_GPUS:
        raise SpecError(f"--num-gpus is {num_gpus}: that is more than any cluster has ({_MOST_GPUS} at most)")
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


def _pipeline(
    values: SpecFields, given: Mapping[str, str], changes: SpecFields, old: ParallelSpec, model: ModelSpec
) -> None:
    """Layers of the stages, where they are not all the same."""
    pp = changes.get("pp", old.pp)
    if "pipeline_layout" in values:
        changes["layers"] = parse_layout(values["pipeline_layout"], max(1, pp), model.mtp_num_layers)
        changes["vpp"] = _chunks_of_layout(len(changes["layers"]), pp, given, changes)
        return
    stages = read_pattern(values["hybrid_layer_pattern"]).stages if values.get("hybrid_layer_pattern") else ()
    if stages:
        changes["layers"] = stages
        changes["vpp"] = _chunks_of_pattern(len(stages), pp, given, changes)
    vpp = changes.get("vpp", old.vpp)
    ends = (values.get("first_stage_layers"), values.get("last_stage_layers"))
    counted = (bool(values.get("embedding_is_a_layer")), bool(values.get("loss_is_a_layer")))
    if (ends != (None, None) or any(counted)) and pp > 0 and vpp > 0:
        if stages:
            raise SpecError("| in --hybrid-layer-pattern cuts the stages: leave out other flags that do")
        changes["layers"] = uneven(model.num_layers, pp, vpp, *ends, *counted)
    elif not stages and (pp, vpp, model.num_layers) != (old.pp, old.vpp, sum(old.layers)):
        changes["layers"] = ()
    if changes.get("layers") and len(set(changes["layers"])) == 1:
        changes["layers"] = ()


def _chunks_of_pattern(virtual_stages: int, pp: int, given: Mapping[str, str], changes: SpecFields) -> int:
    """Chunks of a stage, from the virtual stages of a hybrid pattern."""
    if pp < 1 or virtual_stages % pp or (pp == 1 and virtual_stages > 1):
        raise SpecError(
            f"--hybrid-layer-pattern has {virtual_stages} stages (|), which is no multiple of "
            f"--pipeline-model-parallel-size {pp}" + (", or a pipeline is missing" if pp == 1 else "")
        )
    vpp = virtual_stages // pp
    flag = given.get("vpp") or given.get("layers_per_chunk")
    if flag and changes["vpp"] not in (1, vpp):
        raise SpecError(f"--hybrid-layer-pattern has {vpp} chunks per stage, {flag} says else")
    return vpp


def _chunks_of_layout(virtual_stages: int, pp: int, given: Mapping[str, str], changes: SpecFields) -> int:
    """Chunks of a stage, from the virtual stages of a layout."""
    vpp = virtual_stages // max(1, pp)
    flag = given.get("vpp") or given.get("layers_per_chunk")
    if flag and changes["vpp"] != vpp:
        raise SpecError(f"--pipeline-model-parallel-layout has {vpp} chunks per stage, {flag} says else")
    if pp == 1 and vpp > 1:
        raise SpecError(
            f"--pipeline-model-parallel-layout has {virtual_stages} stages, --pipeline-model-parallel-size is {pp}: "
            f"give {virtual_stages}, or a divisor of it with several chunks per stage"
        )
    return vpp
