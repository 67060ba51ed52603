"""When: ends of all stages (fast, for one or many pipelines) and timelines (every pass)."""

from vtrain_sim.replay.pipelines import SCHEDULES, Pipelines, ends, zero_bubble_orders
from vtrain_sim.replay.timeline import Replay, ScheduleDeadlock, Slot, replay

__all__ = ["SCHEDULES", "Pipelines", "Replay", "ScheduleDeadlock", "Slot", "ends", "replay", "zero_bubble_orders"]
