"""When each stage ends, from the durations of its chunks: the recurrences of every schedule.

Written once for two ways to run: compiled (numba, for many configurations) and as plain Python on
lists (for a single one, where loading the compiler would take longer). Identical layers are already
collapsed into chunk times, so the cost is O(stages x chunks x microbatches) at most. Each kernel
gives exactly what `vtrain_sim.replay.timeline` gives instruction by instruction.

In all of them, configuration i has ``stages[i]`` stages; its stage s has its times at
``offset[i] + s`` (interleaved: ``offset[i] + chunk * stages + s``) and its end at ``place[i] + s``.
``transfer[i]`` is the time of one transfer. Times are in seconds.
"""

from __future__ import annotations

from typing import Any

# Shifts of two clocks that differ by less than this part are the same.
STEADY = 1e-12
NEVER = 1e300


def one_f_one_b(
    offset: Any,
    place: Any,
    stages: Any,
    microbatches: Any,
    forward: Any,
    backward: Any,
    transfer: Any,
    end: Any,
    scratch: Any,
) -> None:
    """1F1B with blocking exchanges (Megatron-Core without interleaving).

    Each exchange is a rendezvous of two neighbours: both leave it when the later one has come and
    the transfer is over. In the steady state the clocks after an iteration depend on those before it
    alone, and a shift of all is a shift of the result: once an iteration shifts all clocks alike, so
    do all that follow, and they are taken in one stride.
    scratch: as long as the largest number of stages.
    """
    for i in range(len(stages)):
        p, m, t, at, out = stages[i], microbatches[i], transfer[i], offset[i], place[i]
        for s in range(p):
            end[out + s] = 0.0
        warm = min(p - 1, m)
        for j in range(warm):
            for s in range(p - 1):
                if j >= min(p - s - 1, m):
                    break
                met = max(end[out + s] + forward[at + s], end[out + s + 1]) + t
                end[out + s] = met
                end[out + s + 1] = met
        j = 0
        while j < m:
            for s in range(p):
                scratch[s] = end[out + s]
                if j < m - min(p - s - 1, m):
                    end[out + s] += forward[at + s]
            end[out + p - 1] += backward[at + p - 1]
            for s in range(p - 2, -1, -1):
                met = max(end[out + s], end[out + s + 1]) + t
                end[out + s] = met + backward[at + s]
                end[out + s + 1] = met
            j += 1
            # Iterations in which every stage still runs a forward pass.
            left = m - warm - j
            if left > 0:
                shift = end[out] - scratch[0]
                steady = True
                for s in range(1, p):
                    if abs(end[out + s] - scratch[s] - shift) > STEADY * end[out + s]:
                        steady = False
                        break
                if steady:
                    for s in range(p):
                        end[out + s] += left * shift
                    j += left


def gpipe(
    offset: Any, place: Any, stages: Any, microbatches: Any, forward: Any, backward: Any, transfer: Any, end: Any
) -> None:
    """GPipe: every forward pass, then every backward pass, with blocking exchanges."""
    for i in range(len(stages)):
        p, m, t, at, out = stages[i], microbatches[i], transfer[i], offset[i], place[i]
        for s in range(p):
            end[out + s] = 0.0
        for _ in range(m):
            for s in range(p):
                end[out + s] += forward[at + s]
                if s < p - 1:
                    met = max(end[out + s], end[out + s + 1]) + t
                    end[out + s] = met
                    end[out + s + 1] = met
        for _ in range(m):
            for s in range(p - 1, -1, -1):
                if s < p - 1:
                    met = max(end[out + s], end[out + s + 1]) + t
                    end[out + s] = met
                    end[out + s + 1] = met
                end[out + s] += backward[at + s]


def interleaved(
    offset: Any,
    place: Any,
    stages: Any,
    chunks: Any,
    microbatches: Any,
    forward: Any,
    backward: Any,
    transfer: Any,
    overlapped: Any,
    end: Any,
    forward_end: Any,
    backward_end: Any,
    chunk_of: Any,
) -> None:
    """Interleaved 1F1B; microbatches are a multiple of stages, as Megatron-Core requires.

    Step k of a stage's forward (or backward) passes is the same chunk and microbatch on every stage,
    so it needs step k of its neighbour, or, where a chunk begins, step k - stages of the stage at the
    other end. overlapped: whether a stage goes on while it sends. forward_end, backward_end: scratch,
    stages x chunks x microbatches of the largest configuration; chunk_of: scratch, as long.
    """
    for i in range(len(stages)):
        p, v, m, t, at, out = stages[i], chunks[i], microbatches[i], transfer[i], offset[i], place[i]
        n = m * v
        held = 0.0 if overlapped[i] else t
        for s in range(p):
            end[out + s] = 0.0
        k = 0
        while k < n:
            for chunk in range(v):
                for _ in range(p):
                    chunk_of[k] = chunk
                    k += 1
        for slot in range(2 * n):
            # Within a slot forward passes follow the stages down, backward passes up.
            for s in range(p):
                warm = min((p - s - 1) * 2 + (v - 1) * p, n)
                if slot < warm:
                    k = slot
                elif slot < 2 * n - warm and (slot - warm) % 2 == 0:
                    k = warm + (slot - warm) // 2
                else:
                    continue
                chunk = chunk_of[k]
                begin = end[out + s]
                if s > 0:
                    begin = max(begin, forward_end[(s - 1) * n + k] + t)
                elif chunk > 0:
                    begin = max(begin, forward_end[(p - 1) * n + k - p] + t)
                done = begin + forward[at + chunk * p + s]
                forward_end[s * n + k] = done
                end[out + s] = done + (held if s < p - 1 or chunk < v - 1 else 0.0)
            for s in range(p - 1, -1, -1):
                warm = min((p - s - 1) * 2 + (v - 1) * p, n)
                if slot >= 2 * n - warm:
                    k = slot - n
                elif slot > warm and (slot - warm) % 2 == 1:
                    k = (slot - warm) // 2
                else:
                    continue
                chunk = v - 1 - chunk_of[k]
                begin = end[out + s]
                if s < p - 1:
                    begin = max(begin, backward_end[(s + 1) * n + k] + t)
                elif chunk < v - 1:
                    begin = max(begin, backward_end[k - p] + t)
                done = begin + backward[at + chunk * p + s]
                backward_end[s * n + k] = done
                end[out + s] = done + (held if s > 0 or chunk > 0 else 0.0)


def zero_bubble(
    offset: Any,
    place: Any,
    stages: Any,
    microbatches: Any,
    limit: Any,
    forward: Any,
    backward: Any,
    weight: Any,
    transfer: Any,
    end: Any,
    order: Any,
    forward_end: Any,
    backward_end: Any,
    counts: Any,
    starts: Any,
) -> None:
    """Zero-bubble scheduling (Qi et al., ICLR 2024, section 3): a free stage takes an input gradient that
    waits for it, else a forward pass while fewer than `limit[i]` microbatches are held, else a weight
    gradient. The limit is 1F1B's (stages) for ZB-H1 and 2 x stages - 1 for ZB-H2.

    order: for each place, 3 x microbatches of 0 (forward), 1 (input gradient), 2 (weight gradient), in
    the order taken; it begins at ``place[i] * 3 * microbatches of the largest``. forward_end,
    backward_end: scratch, stages x microbatches of the largest. counts: scratch, 4 x stages. starts:
    scratch, stages.
    """
    most = 0
    for i in range(len(stages)):
        most = max(most, microbatches[i])
    for i in range(len(stages)):
        p, m, t, at, out = stages[i], microbatches[i], transfer[i], offset[i], place[i]
        for s in range(p):
            end[out + s] = 0.0
            starts[s] = 0.0 if s == 0 else NEVER
        for c in range(4 * p):
            counts[c] = 0
        for _ in range(3 * m * p):
            # What starts first is decided first: nothing that is decided later can reach it.
            s = 0
            for other in range(1, p):
                if starts[other] < starts[s]:
                    s = other
            kind = counts[4 * s + 3]
            number = counts[4 * s + kind]
            order[(out + s) * 3 * most + counts[4 * s] + counts[4 * s + 1] + counts[4 * s + 2]] = kind
            counts[4 * s + kind] += 1
            if kind == 0:
                end[out + s] = starts[s] + forward[at + s]
                forward_end[s * m + number] = end[out + s]
            elif kind == 1:
                end[out + s] = starts[s] + backward[at + s]
                backward_end[s * m + number] = end[out + s]
            else:
                end[out + s] = starts[s] + weight[at + s]
            # The stage and its neighbours choose anew.
            for near in range(max(0, s - 1), min(p, s + 2)):
                f, b, w = counts[4 * near], counts[4 * near + 1], counts[4 * near + 2]
                free = end[out + near]
                b_at = NEVER
                if b < f:
                    if near == p - 1:
                        b_at = max(free, forward_end[near * m + b])
                    elif counts[4 * near + 5] > b:
                        b_at = max(free, forward_end[near * m + b], backward_end[(near + 1) * m + b] + t)
                f_at = NEVER
                # Before its first input gradient a stage fills the way down to the last one and back.
                ramp = p - near if limit[i] == p else 2 * (p - near) - 1
                if f < m and f - w < limit[i] and (b > 0 or f < ramp):
                    if near == 0:
                        f_at = free
                    elif counts[4 * near - 4] > f:
                        f_at = max(free, forward_end[(near - 1) * m + f] + t)
                w_at = free if w < b else NEVER
                if b_at <= f_at and b_at <= w_at:
                    starts[near], counts[4 * near + 3] = b_at, 1
                elif f_at <= w_at:
                    starts[near], counts[4 * near + 3] = f_at, 0
                else:
                    starts[near], counts[4 * near + 3] = w_at, 2
