"""ZB-H2: no bubble, for twice the memory of 1F1B."""

from __future__ import annotations

from vtrain_sim.schedules.zero_bubble import ZeroBubble


class ZBH2(ZeroBubble):
    """More forward passes in the warm-up: a stage fills the way down to the last one and back."""

    name = "zb-h2"
    title = "ZB-H2"
    source = "Qi et al., Zero Bubble Pipeline Parallelism, ICLR 2024, section 2.2"

    def most_in_flight(self, stages: int) -> int:
        return 2 * stages - 1

    def warmup(self, stage: int, stages: int) -> int:
        return 2 * (stages - stage) - 1
