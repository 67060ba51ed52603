"""Names of collectives, of their element types and of process groups, as profilers and NCCL write them."""

from __future__ import annotations

import re

from vtrain_schemas.framework_operators import DTYPES

# The words of a collective's name in order of precedence, all lower case and without "_", "-" and blanks.
_OPERATIONS = (
    ("reducescatter", "reduce_scatter"), ("allreduce", "all_reduce"), ("allgather", "all_gather"),
    ("alltoall", "all_to_all"), ("broadcast", "broadcast"), ("barrier", "barrier"), ("gather", "gather"),
    ("scatter", "scatter"), ("isend", "send"), ("irecv", "recv"), ("sendrecv", "send_recv"), ("recv", "recv"),
    ("send", "send"), ("reduce", "reduce"),
)  # fmt: skip
_SEPARATORS = re.compile(r"[^a-z0-9]+")

# Element types in the names of NCCL kernels and in NCCL's own words.
_NCCL_TYPES = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "float32": "float32",
    "float16": "float16", "float64": "float64", "i8": "int8", "u8": "uint8", "int8_t": "int8", "uint8_t": "uint8",
    "i32": "int32", "int32_t": "int32", "u64": "int64", "i64": "int64", "int64_t": "int64",
    "__nv_bfloat16": "bfloat16", "f8e4m3": "float8", "f8e5m2": "float8",
}  # fmt: skip

# Megatron-Core describes its groups (``group_desc``); the most specific pattern first.
_BY_DESCRIPTION = (
    # Across the instances of the distributed optimizer: one such group serves experts and all other parameters.
    ("HIERARCHICAL_EXPERT_DATA_PARALLEL_GROUP_L1", "dp"),
    ("EXPERT_DATA_PARALLEL", "expert_dp"),
    ("EXPERT_TENSOR_AND_MODEL", "tp_ep"),
    ("EXPERT_TENSOR_MODEL_PIPELINE", "mp"),
    ("EXPERT_TENSOR", "expert_tp"),
    ("EXPERT_MODEL_PARALLEL", "ep"),
    ("POSITION_EMBEDDING", "embedding"),
    ("EMBEDDING", "embedding"),
    ("PIPELINE_MODEL_PARALLEL", "pp"),
    ("TENSOR_MODEL_PARALLEL", "tp"),
    ("TENSOR_AND_DATA", "tp_dp"),
    ("TENSOR_AND_CONTEXT", "tp_cp"),
    # Groups of context parallelism whose size varies from sequence to sequence.
    ("HYBRID_DP_CP", "cp"),
    ("DATA_PARALLEL", "dp"),
    ("DISTRIBUTED_OPTIMIZER", "dp"),
    ("CONTEXT_PARALLEL", "cp"),
    ("MODEL_PARALLEL", "mp"),
)
# Device meshes (FSDP2, DeepSpeed, torchtitan) name a dimension.
_BY_MESH = {
    "mesh_tp": "tp", "mesh_dp": "dp", "mesh_dp_shard": "dp", "mesh_dp_replicate": "dp", "mesh_fsdp": "dp",
    "mesh_dp_shard_cp": "dp", "mesh_pp": "pp", "mesh_cp": "cp", "mesh_ep": "ep",
}  # fmt: skip


def collective_op(name: str) -> str:
    """vtrain's word for a collective (``_allgather_base``, ``ncclDevKernel_AllReduce_Sum_f32_RING_LL``, ...).

    "send_recv" where a kernel does both and its name does not say for what; "" for no collective.
    """
    text = _SEPARATORS.sub("", name.lower())
    return next((op for word, op in _OPERATIONS if word in text), "")


def nccl_type(name: str) -> str:
    """Element type of a collective: PyTorch's (``BFloat16``), NCCL's, or from a kernel's name; "" if unknown."""
    text = str(name).strip()
    dtype = DTYPES.get(text.lower()) or _NCCL_TYPES.get(text.lower())
    if dtype is not None:
        return dtype
    if text.lower().startswith("float8"):
        return "float8"
    for word in reversed(re.split(r"[_(<,\s]+", text.partition("(")[0])):
        if word.lower() in _NCCL_TYPES:
            return _NCCL_TYPES[word.lower()]
    last = text.partition("(")[0].rpartition("_")[2].lower()
    return DTYPES.get(last, "")


def role_of_description(description: str) -> str | None:
    """Role named by a group description such as ``TENSOR_MODEL_PARALLEL_GROUP`` or ``mesh_tp``."""
    role = _BY_MESH.get(description.lower())
    if role is not None:
        return role
    text = description.upper()
    return next((role for pattern, role in _BY_DESCRIPTION if pattern in text), None)
