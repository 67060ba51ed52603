"""Collective calls of a Kineto trace: from the arguments of an event, and the process groups that the trace lists."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from vtrain_schemas.communication_names import collective_op, nccl_type
from vtrain_schemas.operators import DTYPE_BYTES
from vtrain_sim.ingest.json_events import Arguments
from vtrain_sim.ingest.kineto_values import MOST_RANKS, integer, is_rank, rank_or
from vtrain_sim.ingest.trace import Call

# No tensor has more elements.
_MOST_ELEMENTS = 1 << 50

# Groups whose ranks are in the order of one coordinate, by their description.
_COORDINATES = {
    "TENSOR_MODEL_PARALLEL_GROUP": "tp_rank",
    "PIPELINE_MODEL_PARALLEL_GROUP": "pp_rank",
    "DATA_PARALLEL_GROUP": "dp_rank",
    "CONTEXT_PARALLEL_GROUP": "cp_rank",
    "EXPERT_MODEL_PARALLEL_GROUP": "ep_rank",
    "mesh_tp": "tp_rank",
    "mesh_pp": "pp_rank",
    "mesh_dp": "dp_rank",
    "mesh_cp": "cp_rank",
    "mesh_ep": "ep_rank",
}

# Description and ranks by the name of the group.
ProcessGroups: TypeAlias = dict[str, tuple[str, tuple[int, ...]]]


def call_of(args: Arguments) -> Call | None:
    """The call that the arguments of an event describe, None for none."""
    name = args.collective if args.collective is not None else args.collective_old
    if name is None:
        return None
    elements = max(
        integer(args.elements_in if args.elements_in is not None else args.elements_in_old),
        integer(args.elements_out if args.elements_out is not None else args.elements_out_old),
        0,
    )
    elements = elements if elements < _MOST_ELEMENTS else 0
    dtype = nccl_type(str(args.dtype or ""))
    ranks = _ranks(args)
    group = args.group_name if args.group_name not in (None, "") else args.group_id
    return Call(
        op=collective_op(str(name)) or str(name),
        dtype=dtype,
        elements=elements,
        bytes=elements * DTYPE_BYTES.get(dtype, 0),
        group_size=max(0, integer(args.group_size)) or len(ranks),
        group="" if group is None else str(group),
        description=str(args.group_description or ""),
        ranks=ranks,
        source=rank_or(args.source, -1),
        destination=rank_or(args.destination, -1),
    )


def _ranks(args: Arguments) -> tuple[int, ...]:
    """Global ranks of the group: listed, or by first rank and stride; () where neither is there."""
    listed = args.group_ranks
    if isinstance(listed, str):
        try:
            listed = json.loads(listed)
        except ValueError:  # "[0, 1, ..., 63]": shortened by the profiler
            listed = None
    ranks: Sequence[object] = ()
    if isinstance(listed, list):
        ranks = listed
    else:
        first, stride, size = integer(args.first_rank), integer(args.stride), integer(args.group_size)
        if stride > 0 and 0 < size <= MOST_RANKS:
            ranks = range(first, first + stride * size, stride)
    valid = tuple(r for r in ranks if is_rank(r))
    return valid if len(valid) == len(ranks) else ()


def process_groups(metadata: Mapping[str, object]) -> ProcessGroups:
    """The process groups that a trace lists."""
    distributed = metadata.get("distributedInfo")
    listed = distributed.get("pg_config") if isinstance(distributed, dict) else None
    groups: ProcessGroups = {}
    for group in listed if isinstance(listed, list) else []:
        if isinstance(group, dict):
            ranks = group.get("ranks")
            ranks = tuple(r for r in ranks if is_rank(r)) if isinstance(ranks, list) else ()
            size = group.get("pg_size")
            ranks = ranks if size is None or size == len(ranks) else ()  # shortened
            groups[str(group.get("pg_name", ""))] = (str(group.get("pg_desc") or ""), ranks)
    return groups


def described(call: Call | None, groups: ProcessGroups) -> Call:
    """A call with what the list of groups adds."""
    if call is None:
        return Call()
    description, ranks = groups.get(call.group, ("", ()))
    # A shortened list of ranks is none.
    ranks = ranks if len(ranks) == call.group_size else ()
    return replace(call, description=call.description or description, ranks=call.ranks or ranks)


def coordinates(rank: int, groups: ProcessGroups, calls: Iterable[Call]) -> dict[str, int]:
    """Place of a rank in the groups that it says it is in, by column of the ranks table.

    Nothing for a dimension without a group, or with several that put it in different places.
    """
    told = [*groups.values(), *((c.description, c.ranks) for c in calls if len(c.ranks) == c.group_size)]
    places: dict[str, set[int]] = {}
    for description, ranks in told:
        name = _COORDINATES.get(description)
        if name is not None and rank in ranks:
            places.setdefault(name, set()).add(ranks.index(rank))
    return {name: place.pop() for name, place in places.items() if len(place) == 1}
