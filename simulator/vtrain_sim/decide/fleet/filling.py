"""GPUs reserved over time, so that jobs end before their deadlines (ElasticFlow's progressive filling), compiled.

Time is cut where a job ends, not into slots of one length: a *piece* is a time with the same number of free GPUs.
``ends[:pieces]`` and ``free[:pieces]`` are their ends (the first begins now, the last never ends) and free GPUs. A
*level* is a place in the arrays ``gpus``, ``seconds`` (per iteration) and ``pause`` (seconds from a stop until the job
trains again on these GPUs); a job may use the levels ``low`` to ``high``, where more GPUs are faster. What is reserved
for a job are *steps*: until when, on which level (-1: none).

Each function leaves arrays that it may not use up to the end; those it writes to are named in its text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba
import numpy as np

from vtrain_sim.decide.fleet.running import WORTH, Booleans, Floats, Ints

_P = ParamSpec("_P")
_R = TypeVar("_R")
# A job whose GPUs would change more often than this is not reserved that way.
MOST_STEPS = 64
NEVER = 1e300


def compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compiled when first called, and kept on disk."""
    return cast(Callable[_P, _R], numba.njit(cache=True, nogil=True)(function))


@compiled
def walk(
    now: float,
    left: float,
    deadline: float,
    held: int,
    resume: float,
    started: bool,
    tolls: float,
    low: int,
    high: int,
    gpus: Ints,
    seconds: Floats,
    pause: Floats,
    ends: Floats,
    free: Ints,
    pieces: int,
    step_end: Floats,
    step_level: Ints,
) -> tuple[int, float]:
    """One job through the free GPUs, on ``high`` or the largest level below it that is free.

    left: iterations; held: the level that it has; resume: when that trains again; tolls: how many times the pause that
    it costs a growth must save. Writes step_end and step_level. Returns how many steps there are, and the GPU-seconds
    up to its end; no steps where the job does not end by its deadline.
    """
    steps = 0
    used = 0.0
    begin = now
    level = held
    for piece in range(pieces):
        until = min(ends[piece], deadline)
        if until <= begin:
            break
        chosen = high
        while chosen >= low and gpus[chosen] > free[piece]:
            chosen -= 1
        if chosen < low:
            chosen = -1
        if low <= level < chosen and tolls * pause[chosen] + left * (seconds[chosen] - seconds[level]) >= max(
            0.0, resume - begin
        ):
            chosen = level
        if chosen != level and chosen >= 0:
            resume = begin + pause[chosen] if started else begin
            started = True
        if steps == 0 or step_level[steps - 1] != chosen:
            if steps == MOST_STEPS:
                return 0, 0.0
            steps += 1
            step_level[steps - 1] = chosen
        level = chosen
        if level >= 0:
            training = max(begin, resume)
            end = training + left * seconds[level]
            if end <= until:
                step_end[steps - 1] = end
                return steps, used + gpus[level] * (end - begin)
            if until > training:
                left -= (until - training) / seconds[level]
            used += gpus[level] * (until - begin)
        step_end[steps - 1] = until
        begin = until
    return 0, 0.0


@compiled
def book(
    steps: int,
    step_end: Floats,
    step_level: Ints,
    sign: int,
    gpus: Ints,
    ends: Floats,
    free: Ints,
    pieces: int,
) -> int:
    """Take the steps of a job out of the free GPUs (sign 1), or give them back (-1). Writes ends and free. Returns
    how many pieces there are then."""
    piece = 0
    for step in range(steps):
        taken = sign * gpus[step_level[step]] if step_level[step] >= 0 else 0
        while ends[piece] < step_end[step]:
            free[piece] -= taken
            piece += 1
        if ends[piece] > step_end[step]:
            for later in range(pieces, piece, -1):
                ends[later] = ends[later - 1]
                free[later] = free[later - 1]
            ends[piece] = step_end[step]
            pieces += 1
        free[piece] -= taken
        piece += 1
    return pieces


@compiled
def reserve(
    first: int,
    now: float,
    capacity: int,
    left: Floats,
    deadline: Floats,
    held: Ints,
    resume: Floats,
    started: Booleans,
    low: Ints,
    high: Ints,
    gpus: Ints,
    seconds: Floats,
    pause: Floats,
    steps: Ints,
    step_end: Floats,
    step_level: Ints,
) -> int:
    """Give each job from the one at ``first`` on, in the order of the arrays, the level with which it ends in time
    beside those before it for the fewest GPU-seconds: its minimum satisfactory share (Gu et al., ASPLOS 2023, admission
    control). Those before ``first`` keep the steps that they have. Writes steps ([jobs]), step_end and step_level
    ([jobs, MOST_STEPS]). Returns how many jobs are served: the first that cannot be is at that index.
    """
    room = 2 + len(left) - first
    for job in range(first):
        room += steps[job]
    ends = np.empty(room)
    free = np.empty(room, dtype=np.int64)
    ends[0], free[0] = NEVER, capacity
    pieces = 1
    for job in range(first):
        pieces = book(steps[job], step_end[job], step_level[job], 1, gpus, ends, free, pieces)
    try_end = np.empty(MOST_STEPS)
    try_level = np.empty(MOST_STEPS, dtype=np.int64)
    for job in range(first, len(left)):
        best = 0.0
        steps[job] = 0
        for level in range(low[job], high[job] + 1):
            count, used = walk(
                now, left[job], deadline[job], held[job], resume[job], started[job], 1.0, low[job], level, gpus,
                seconds, pause, ends, free, pieces, try_end, try_level,
            )  # fmt: skip
            if count and (steps[job] == 0 or used < best * (1 - 1e-9)):
                best = used
                steps[job] = count
                step_end[job, :count] = try_end[:count]
                step_level[job, :count] = try_level[:count]
        if steps[job] == 0:
            return job
        pieces = book(steps[job], step_end[job], step_level[job], 1, gpus, ends, free, pieces)
    return len(left)


@compiled
def grow(
    now: float,
    capacity: int,
    left: Floats,
    deadline: Floats,
    held: Ints,
    resume: Floats,
    started: Booleans,
    low: Ints,
    high: Ints,
    gpus: Ints,
    seconds: Floats,
    pause: Floats,
    steps: Ints,
    step_end: Floats,
    step_level: Ints,
    level: Ints,
) -> None:
    """Give the GPUs that are free now: first to jobs that wait, shortest first; then to whom one more adds most of
    what is left (Gu et al., ASPLOS 2023, resource allocation). A job with a deadline takes more only where its steps
    then still end in time beside those of all others, so whatever is given breaks no deadline; a job without one (no
    steps) has what nobody else needs now. Writes level ([jobs]: from now on; -1: none), steps, step_end, step_level.
    """
    jobs = len(left)
    room = 2 + steps.sum() + (high - low + 1).sum()
    ends = np.empty(room)
    free = np.empty(room, dtype=np.int64)
    ends[0], free[0] = NEVER, capacity
    pieces = 1
    tried = np.empty(jobs, dtype=np.int64)
    for job in range(jobs):
        pieces = book(steps[job], step_end[job], step_level[job], 1, gpus, ends, free, pieces)
        level[job] = step_level[job, 0] if steps[job] else -1
        tried[job] = level[job] if level[job] >= 0 else low[job] - 1
    try_end = np.empty(MOST_STEPS)
    try_level = np.empty(MOST_STEPS, dtype=np.int64)
    while free[0] > 0:
        chosen = -1
        chosen_waits = False
        most = 0.0
        for job in range(jobs):
            following = tried[job] + 1
            if following > high[job]:
                continue
            waits = level[job] < 0
            more = gpus[following] - (0 if waits else gpus[level[job]])
            if more > free[0] or (chosen_waits and not waits):
                continue
            if waits:
                worth = -left[job] * seconds[low[job]] * gpus[low[job]]
            else:
                worth = (1 / seconds[following] - 1 / seconds[level[job]]) / (more * max(left[job], 1e-9))
            if chosen < 0 or (waits and not chosen_waits) or worth > most:
                chosen, chosen_waits, most = job, waits, worth
        if chosen < 0:
            break
        job = chosen
        tried[job] += 1
        if steps[job] == 0:
            free[0] -= gpus[tried[job]] - (0 if level[job] < 0 else gpus[level[job]])
            level[job] = tried[job]
            continue
        pieces = book(steps[job], step_end[job], step_level[job], -1, gpus, ends, free, pieces)
        count, _ = walk(
            now, left[job], deadline[job], held[job], resume[job], started[job], WORTH, low[job], tried[job], gpus,
            seconds, pause, ends, free, pieces, try_end, try_level,
        )  # fmt: skip
        if count and try_level[0] > level[job]:
            steps[job] = count
            step_end[job, :count] = try_end[:count]
            step_level[job, :count] = try_level[:count]
            level[job] = try_level[0]
        pieces = book(steps[job], step_end[job], step_level[job], 1, gpus, ends, free, pieces)
    for job in range(jobs):
        has = held[job]
        grown = steps[job] == 0 and low[job] <= has < level[job]
        if grown and left[job] * (seconds[has] - seconds[level[job]]) <= WORTH * pause[level[job]]:
            level[job] = has
