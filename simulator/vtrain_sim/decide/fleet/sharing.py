"""GPUs given one step after the other to whom they help most, compiled."""

from __future__ import annotations

from vtrain_sim.decide.fleet.filling import compiled
from vtrain_sim.decide.fleet.running import Floats, Ints


@compiled
def share(
    capacity: int, low: Ints, high: Ints, gpus: Ints, seconds: Floats, fair: Floats, level: Ints, grow: bool
) -> None:
    """Give each job in turn that has none its fewest GPUs, if they are free; then, if grow is set, more to the job
    whose time of an iteration over ``fair`` falls most for each GPU.

    A job may use the levels ``low`` to ``high`` of ``gpus`` and ``seconds``. Writes level ([jobs]; -1: none).
    """
    free = capacity
    for job in range(len(low)):
        if level[job] >= 0:
            free -= gpus[level[job]]
    for job in range(len(low)):
        if level[job] < 0 and gpus[low[job]] <= free:
            level[job] = low[job]
            free -= gpus[low[job]]
    while grow and free > 0:
        most = 0.0
        chosen, to = -1, -1
        for job in range(len(low)):
            has = level[job]
            if has < 0:
                continue
            for larger in range(has + 1, high[job] + 1):
                more = gpus[larger] - gpus[has]
                if more > free:
                    break
                worth = (seconds[has] - seconds[larger]) / (fair[job] * more)
                if worth > most:
                    most, chosen, to = worth, job, larger
        if chosen < 0:
            break
        free -= gpus[to] - gpus[level[chosen]]
        level[chosen] = to
