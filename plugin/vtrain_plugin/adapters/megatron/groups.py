"""What a process group is for, from Megatron-Core's globals."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# For versions that give their groups no description. Values are words of `vtrain_schemas.words.ROLES`.
ROLE_OF_GLOBAL = {
    "_TENSOR_MODEL_PARALLEL_GROUP": "tp",
    "_PIPELINE_MODEL_PARALLEL_GROUP": "pp",
    "_DATA_PARALLEL_GROUP": "dp",
    "_DATA_PARALLEL_GROUP_WITH_CP": "dp",
    "_CONTEXT_PARALLEL_GROUP": "cp",
    "_EXPERT_MODEL_PARALLEL_GROUP": "ep",
    "_EXPERT_TENSOR_PARALLEL_GROUP": "expert_tp",
    "_EXPERT_DATA_PARALLEL_GROUP": "expert_dp",
    "_EMBEDDING_GROUP": "embedding",
    "_POSITION_EMBEDDING_GROUP": "embedding",
    "_MODEL_PARALLEL_GROUP": "mp",
    "_TENSOR_AND_CONTEXT_PARALLEL_GROUP": "tp_cp",
    "_TENSOR_AND_DATA_PARALLEL_GROUP": "tp_dp",
    "_TENSOR_AND_DATA_PARALLEL_GROUP_WITH_CP": "tp_dp",
    "_EXPERT_TENSOR_AND_MODEL_PARALLEL_GROUP": "tp_ep",
    "_EXPERT_TENSOR_MODEL_PIPELINE_PARALLEL_GROUP": "mp",
}


def role_of_global(group: ProcessGroup) -> str | None:
    """Role of a group of `megatron.core.parallel_state`; None for any other."""
    try:
        from megatron.core import parallel_state
    except ImportError:
        return None
    for name, role in ROLE_OF_GLOBAL.items():
        value = getattr(parallel_state, name, None)
        if value is group or (isinstance(value, (list, tuple)) and any(g is group for g in value)):
            return role
    return None
