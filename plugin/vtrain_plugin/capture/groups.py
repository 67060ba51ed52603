"""What a process group is for: its role and its ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vtrain_schemas.communication_names import role_of_description

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Groups:
    """Roles and ranks of process groups, looked up once each.

    fallback: the framework's own knowledge of a group that torch has no description of.
    """

    def __init__(self, fallback: Callable[[ProcessGroup], str | None]) -> None:
        self._fallback = fallback
        self._known: dict[int, tuple[ProcessGroup | None, str, tuple[int, ...]]] = {}

    def describe(self, group: ProcessGroup | None) -> tuple[str, tuple[int, ...]]:
        """Role and global ranks of a group; None is the world."""
        known = self._known.get(id(group))
        if known is None:
            # The group itself is kept, so that its id cannot be reused.
            known = (group, self._role(group), _ranks(group))
            self._known[id(group)] = known
        return known[1], known[2]

    def _role(self, group: ProcessGroup | None) -> str:
        if group is None:
            return "world"
        role = role_of_description(str(getattr(group, "group_desc", "") or ""))
        return role or self._fallback(group) or "world"


def _ranks(group: ProcessGroup | None) -> tuple[int, ...]:
    import torch.distributed as dist

    if group is None:
        return tuple(range(dist.get_world_size()))
    return tuple(int(r) for r in dist.get_process_group_ranks(group))
