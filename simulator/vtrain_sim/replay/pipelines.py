"""Ends of the stages of many pipelines at once, each by its own schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.replay import kernels

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
SCHEDULES = ("1f1b", "gpipe", "interleaved", "zb-h1", "zb-h2")
# More chunk passes than this are worth loading the compiler for.
WORTH_COMPILING = 400_000


@dataclass(frozen=True)
class Pipelines:
    """[count] pipelines. schedule: index into `SCHEDULES`. forward_s, backward_s, weight_s: durations of
    the chunks, seconds, all pipelines one after another, each chunk by chunk and in it stage by stage.
    transfer_s: [count] one transfer between stages. overlapped: [count] whether sends overlap."""

    schedule: Integers
    stages: Integers
    chunks: Integers
    microbatches: Integers
    forward_s: Floats
    backward_s: Floats
    weight_s: Floats
    transfer_s: Floats
    overlapped: NDArray[np.bool_]


@cache
def _compiled(name: str) -> Callable[..., None]:
    import numba

    found: Callable[..., None] = numba.njit(cache=True, nogil=True, error_model="numpy")(getattr(kernels, name))
    return found


_calls = 0


def ends(pipelines: Pipelines) -> Floats:
    """When each stage has finished its last pass, seconds: all pipelines one after another."""
    return replay_all(pipelines, _worth_compiling(pipelines))[0]


def zero_bubble_orders(pipelines: Pipelines) -> Integers:
    """[stages of all pipelines, 3 x most microbatches] the passes that each stage takes, in order."""
    most = int(pipelines.microbatches.max())
    return replay_all(pipelines, _worth_compiling(pipelines))[1].reshape(-1, 3 * most)


def _worth_compiling(pipelines: Pipelines) -> bool:
    """The first small calls of a process run as plain Python: loading the compiler takes longer."""
    global _calls
    _calls += 1
    work = int((pipelines.stages * pipelines.chunks * pipelines.microbatches).sum())
    return _calls > 3 or work > WORTH_COMPILING


def replay_all(pipelines: Pipelines, compiled: bool) -> tuple[Floats, Integers]:
    """Ends of all stages, and the orders of zero-bubble schedules; compiled or as plain Python."""
    slots = pipelines.stages * pipelines.chunks
    offset = np.concatenate([[0], np.cumsum(slots)[:-1]]).astype(np.int64)
    place = np.concatenate([[0], np.cumsum(pipelines.stages)[:-1]]).astype(np.int64)
    total = int(pipelines.stages.sum())
    end = np.zeros(total)
    orders = np.zeros(0, dtype=np.int64)
    for index, name in enumerate(SCHEDULES):
        chosen = np.flatnonzero(pipelines.schedule == index)
        if not len(chosen):
            continue
        p, m = pipelines.stages[chosen], pipelines.microbatches[chosen]
        times = [pipelines.forward_s, pipelines.backward_s]
        where: list[NDArray[Any]] = [offset[chosen], place[chosen], p]
        held = int((p * pipelines.chunks[chosen] * m).max())
        transfer = pipelines.transfer_s[chosen]
        if name == "1f1b":
            kernel, arguments = "one_f_one_b", [*where, m, *times, transfer, end, np.zeros(int(p.max()))]
        elif name == "gpipe":
            kernel, arguments = "gpipe", [*where, m, *times, transfer, end]
        elif name == "interleaved":
            chunks, overlapped = pipelines.chunks[chosen], pipelines.overlapped[chosen]
            scratch: list[NDArray[Any]] = [np.zeros(held), np.zeros(held), np.zeros(held, dtype=np.int64)]
            kernel, arguments = "interleaved", [*where, chunks, m, *times, transfer, overlapped, end, *scratch]
        else:
            limit = p if name == "zb-h1" else 2 * p - 1
            orders = np.zeros(total * 3 * int(m.max()), dtype=np.int64)
            scratch = [np.zeros(held), np.zeros(held)]
            counts, starts = np.zeros(4 * int(p.max()), dtype=np.int64), np.zeros(int(p.max()))
            kernel = "zero_bubble"
            arguments = [*where, m, limit, *times, pipelines.weight_s, transfer, end, orders, *scratch, counts, starts]
        _run(kernel, arguments, compiled)
    return end, orders


def _run(name: str, arguments: list[Any], compiled: bool) -> None:
    if compiled:
        _compiled(name)(*arguments)
        return
    # Plain Python works on lists several times faster than on arrays.
    lists = [a.tolist() for a in arguments]
    getattr(kernels, name)(*lists)
    for array, values in zip(arguments, lists, strict=True):
        array[...] = values
