"""What a process group is for: its role and its ranks."""

from __future__ import annotations

from typing import Any

from vtrain_schemas.communication_names import role_of_description

# Fallback where torch keeps no description: Megatron's own globals.
_BY_GLOBAL = (
    ("_TENSOR_MODEL_PARALLEL_GROUP", "tp"),
    ("_PIPELINE_MODEL_PARALLEL_GROUP", "pp"),
    ("_DATA_PARALLEL_GROUP", "dp"),
    ("_DATA_PARALLEL_GROUP_WITH_CP", "dp"),
    ("_CONTEXT_PARALLEL_GROUP", "cp"),
    ("_EXPERT_MODEL_PARALLEL_GROUP", "ep"),
    ("_EXPERT_TENSOR_PARALLEL_GROUP", "expert_tp"),
    ("_EXPERT_DATA_PARALLEL_GROUP", "expert_dp"),
    ("_EMBEDDING_GROUP", "embedding"),
    ("_POSITION_EMBEDDING_GROUP", "embedding"),
    ("_MODEL_PARALLEL_GROUP", "mp"),
)


class Groups:
    """Roles and ranks of process groups, looked up once each."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, str, tuple[int, ...]]] = {}

    def describe(self, group: Any) -> tuple[str, tuple[int, ...]]:
        """Role and global ranks of a group; None is the world."""
        known = self._known.get(id(group))
        if known is None:
            # The group itself is kept, so that its id cannot be reused.
            known = (group, _role(group), _ranks(group))
            self._known[id(group)] = known
        return known[1], known[2]


def _role(group: Any) -> str:
    if group is None:
        return "world"
    role = role_of_description(str(getattr(group, "group_desc", "") or ""))
    if role is not None:
        return role
    try:
        from megatron.core import parallel_state
    except ImportError:
        return "world"
    for name, role in _BY_GLOBAL:
        held = getattr(parallel_state, name, None)
        if held is group or (isinstance(held, (list, tuple)) and any(g is group for g in held)):
            return role
    return "world"


def _ranks(group: Any) -> tuple[int, ...]:
    import torch.distributed as dist

    if group is None:
        return tuple(range(dist.get_world_size()))
    return tuple(int(r) for r in dist.get_process_group_ranks(group))
