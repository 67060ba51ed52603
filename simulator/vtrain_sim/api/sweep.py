"""``sweep``: one job with some arguments varied."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice, product

from vtrain_sim.api.job import Job, job_of
from vtrain_sim.api.options import Option, check_names, read_options
from vtrain_sim.decide.sweep import SweepPoint, SweepResult, evaluate_points
from vtrain_sim.errors import UserError
from vtrain_sim.inputs.megatron_flags import parse_flags
from vtrain_sim.progress import Progress, unwatched
from vtrain_sim.specs.checks import positive

# More points than this take hours and are no table that anybody reads.
MOST_POINTS = 100_000
# Points evaluated together: enough to share operators' costs.
_TOGETHER = 2048
# Fields of which there is at least one.
_COUNTED = ("tp", "pp", "cp", "ep", "dp", "vpp", "micro_batch_size", "global_batch_size")


def sweep(job: Job, *, progress: Progress = unwatched, **axes: Sequence[Option]) -> SweepResult:
    """Project every combination of the given values, in batches.

    axes: a list of values by name, names as for `vtrain.job`. Combinations that Megatron-Core refuses, and those
    whose cost is not known, are listed with the reason. progress: called with the points projected, all points, and
    their share. Raises `UserError` for an unknown name.

    >>> import vtrain as vt
    >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
    >>> result = vt.sweep(job, tp=[1, 2, 3], pp=[1, 2])
    >>> [row["reason"] == "" for row in result.rows()]
    [True, True, True, True, False, False]
    """
    if not axes:
        raise UserError("there is nothing to vary: give values by name, for example tp=[1, 2, 4]")
    for name, values in axes.items():
        if isinstance(values, (str, bytes)) or not isinstance(values, Sequence) or not values:
            raise UserError(f"{name} is {values!r}: a sweep takes a list of values")
    check_names(axes)
    _check_values(axes)
    job = job_of(job)
    size = math.prod(len(values) for values in axes.values())
    if size > MOST_POINTS:
        raise UserError(f"these values combine to {size:,} points, a sweep takes {MOST_POINTS:,}: vary fewer at a time")
    combinations = product(*axes.values())
    projector = job.machine.projector
    points: list[SweepPoint] = []
    while batch := [_point(job, dict(zip(axes, values, strict=True))) for values in islice(combinations, _TOGETHER)]:
        points += evaluate_points(projector, batch)
        progress(len(points), size, len(points) / size)
    return SweepResult(projector.cluster.name, tuple(points))


def _check_values(axes: Mapping[str, Sequence[Option]]) -> None:
    """Raise `UserError` for a value that an argument never has, whatever the job and the other values are."""
    for name, values in axes.items():
        for value in values:
            flags = read_options({name: value}).flags
            for field, read in parse_flags(flags).values.items():
                if field in _COUNTED:
                    positive(flags[0], read)


def _point(job: Job, values: dict[str, Option]) -> SweepPoint:
    try:
        return SweepPoint(values, job.with_(**values).configuration)
    except UserError as error:
        return SweepPoint(values, reason=str(error))
