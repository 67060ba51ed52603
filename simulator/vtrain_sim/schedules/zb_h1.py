"""ZB-H1: a third of 1F1B's bubble with its memory."""

from __future__ import annotations

from vtrain_sim.schedules.zero_bubble import ZeroBubble


class ZBH1(ZeroBubble):
    """Weight gradients fill the bubbles; a stage keeps as many microbatches as 1F1B's first."""

    name = "zb-h1"
    title = "ZB-H1"
    source = "Qi et al., Zero Bubble Pipeline Parallelism, ICLR 2024, section 2.1"

    def most_in_flight(self, stages: int) -> int:
        return stages

    def warmup(self, stage: int, stages: int) -> int:
        return stages - stage
