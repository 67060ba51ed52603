"""Fully sharded data parallelism (ZeRO-3, Rajbhandari et al. 2020): what programs that follow each other exchange.

Each program's parameters are gathered while the one before it runs, so that those of two are on the rank, and its
gradients are scattered while the one after it runs (PyTorch's FSDP2 and Megatron-FSDP with their defaults). Nothing
runs beside the gathering of the first program's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from vtrain_schemas.operators import dtype_bytes
from vtrain_sim.model.program import Communication, Item, Program, Wait
from vtrain_sim.model.shard import Shard
from vtrain_sim.specs.groups import Group

_GATHERED = Wait("param_gather")
Runs = Sequence[tuple[Program, int]]
# The program, the one that runs before it in the forward pass and the one after it.
Neighbours = tuple[Program, Program | None, Program | None]


def is_fully_sharded(shard: Shard) -> bool:
    """Whether parameters are spread over more than one rank."""
    return shard.spec.fsdp.size > 1 or shard.spec.expert_fsdp.size > 1


def with_exchanges(runs: Runs, exchange: Callable[[Neighbours], Program]) -> list[tuple[Program, int]]:
    """Programs of a chunk in forward order, each made one that exchanges what its neighbours need.

    exchange: `exchanging`, of which equal calls are to give one object.
    """
    sharded = [place for place, (program, _) in enumerate(runs) if program.used_parameters]
    result: list[tuple[Program, int]] = []
    for place, (program, count) in enumerate(runs):
        if place not in sharded:
            result.append((program, count))
            continue
        before = max((p for p in sharded if p < place), default=None)
        after = min((p for p in sharded if p > place), default=None)
        first = None if before is None else runs[before][0]
        last = None if after is None else runs[after][0]
        if count == 1:
            result.append((exchange((program, first, last)), 1))
            continue
        result.append((exchange((program, first, program)), 1))
        if count > 2:
            result.append((exchange((program, program, program)), count - 2))
        result.append((exchange((program, program, last)), 1))
    return result


def exchanging(shard: Shard, neighbours: Neighbours) -> Program:
    """A program that gathers its own parameters where it is the first, those of its neighbour ahead, and scatters its
    gradients."""
    program, before, after = neighbours
    scatters = [
        Communication("grad_sync", "reduce_scatter", group, count * dtype_bytes(shard.spec.main_grads_dtype), False)
        for group, count in _parts(shard, program.parameters, program.expert_parameters)
    ]
    return replace(
        program,
        forward=_ahead(shard, program, program.forward, before is None, after),
        backward=(*_ahead(shard, program, (*program.backward, *scatters), after is None, before),),
    )


def _ahead(
    shard: Shard, program: Program, items: tuple[Item, ...], first: bool, following: Program | None
) -> tuple[Item, ...]:
    blocking = _gathers(shard, program, True) if first else []
    if following is None:
        return (*blocking, *items)
    return (*blocking, *_gathers(shard, following, False), *items, _GATHERED)


def _gathers(shard: Shard, program: Program, blocking: bool) -> list[Item]:
    # A table that two programs use is gathered for each of them; its gradient is scattered once.
    return [
        Communication("param_gather", "all_gather", group, count * shard.spec.precision.gathered_bytes, blocking)
        for group, count in _parts(
            shard,
            program.parameters + program.borrowed_parameters,
            program.expert_parameters + program.borrowed_expert_parameters,
        )
    ]


def _parts(shard: Shard, parameters: int, expert_parameters: int) -> list[tuple[Group, int]]:
    both = ((shard.spec.fsdp, parameters), (shard.spec.expert_fsdp, expert_parameters))
    return [(group, count) for group, count in both if group.size > 1 and count]
