"""Many pipelines at once, each by its own schedule."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from vtrain_sim.schedules.base import Schedule
from vtrain_sim.schedules.placement import PipelineShape
from vtrain_sim.schedules.times import Floats, PassEnds, PassTimes, rows_of


@lru_cache(maxsize=1 << 14)
def kept_in_flight(schedule: Schedule, shape: PipelineShape) -> Floats:
    """As `Schedule.in_flight`, once for each pipeline: it is the same for all layers."""
    return schedule.in_flight(shape)


def run(schedules: Sequence[Schedule], batch: PassTimes) -> PassEnds:
    """When the stages and chunks of all pipelines are done; schedules: [count] one for each pipeline."""
    numbers: dict[Schedule, list[int]] = {}
    for number, schedule in enumerate(schedules):
        numbers.setdefault(schedule, []).append(number)
    if len(numbers) == 1:
        return schedules[0].ends(batch)
    ends = PassEnds.of_nothing(batch)
    for schedule, of_schedule in numbers.items():
        chosen = np.array(of_schedule)
        of_chosen = schedule.ends(batch.select(chosen))
        ends.end_s[rows_of(batch.first_stage[chosen], batch.stages[chosen])] = of_chosen.end_s
        ends.gradients_s[rows_of(batch.first_place[chosen], batch.places[chosen])] = of_chosen.gradients_s
    return ends
