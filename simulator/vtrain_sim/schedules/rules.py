"""Shapes that a schedule refuses, in the words of Megatron's flags."""

from __future__ import annotations

from vtrain_sim.errors import SpecError
from vtrain_sim.schedules.placement import PipelineShape


def refuse_chunks(name: str, shape: PipelineShape) -> None:
    """For schedules of one chunk per stage."""
    if shape.chunks > 1:
        raise SpecError(f"--schedule {name} does not interleave: leave out the virtual stages")


def need_two_chunks(name: str, shape: PipelineShape) -> None:
    """For schedules that pass a V: down the stages and back up."""
    if shape.chunks != 2:
        raise SpecError(
            f"--schedule {name} needs 2 model chunks per stage, not {shape.chunks}: "
            "--num-layers-per-virtual-pipeline-stage is to be half of a stage's layers"
        )


def need_microbatches(name: str, shape: PipelineShape, least: int) -> None:
    """For schedules that are written for a full pipeline only."""
    if shape.microbatches < least:
        raise SpecError(
            f"--schedule {name} needs at least {least} microbatches on {shape.stages} stages, not "
            f"{shape.microbatches}: raise --global-batch-size or lower --micro-batch-size"
        )
