"""``explain``: what binds one configuration, and what one change at a time would bring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vtrain_sim.api.job import Job, job_of
from vtrain_sim.api.options import Option
from vtrain_sim.decide.sensitivity import Sensitivity, sensitivity
from vtrain_sim.decide.sweep import SweepPoint
from vtrain_sim.errors import UserError
from vtrain_sim.report.sensitivity_words import sentences

_RECOMPUTED = ("none", "selective", "full")
# Micro batch sizes that are tried on each side.
_TRIED = 1000


def explain(job: Job) -> Sensitivity:
    """Project a job, and what each of these changes alone would bring.

    The machine: matrix products, memory bandwidth, links inside a node and between nodes 10% faster, kernels launched
    in half the time. Measured times of a captured run are scaled as the device's estimates change. The configuration,
    with as many GPUs and the same global batch: the next and the previous micro batch size, tp, pp, cp and ep doubled
    and halved, the other kinds of recomputation. Raises `UserError` where the job cannot be projected.

    >>> import vtrain as vt
    >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, tp=2, mbs=1, gbs=16)
    >>> sensitivity = vt.explain(job)
    >>> sensitivity.effects[0].change_s < 0
    True
    """
    job = job_of(job)
    # The number of GPUs stays, also where it follows from the layout.
    fixed = replace(job, fixed_gpus=job.configuration.parallel.world_size)
    changes = [(name, _point(fixed, values)) for name, values in _changes(job)]
    result = sensitivity(job.machine.projector, job.configuration, changes)
    return replace(result, sentences=sentences(result))


def _changes(job: Job) -> Iterator[tuple[str, dict[str, Option]]]:
    """Name and options of each change of the configuration."""
    parallel, train = job.configuration.parallel, job.configuration.train
    for size in _neighbours(train.micro_batch_size, train.global_batch_size // parallel.dp):
        yield f"micro batch {size}", {"mbs": size}
    sizes = {"tp": parallel.tp, "pp": parallel.pp, "cp": parallel.cp}
    if job.configuration.model.num_experts:
        sizes["ep"] = parallel.ep
    for name, size in sizes.items():
        for other in (size * 2, size // 2 if size % 2 == 0 else 0):
            if other:
                yield f"{name} {other}", {name: other, **_with(name, other, job)}
    for granularity in _RECOMPUTED:
        if granularity != train.recompute_granularity:
            name = "no recomputation" if granularity == "none" else f"{granularity} recomputation"
            yield name, {"recompute": granularity}


def _with(name: str, size: int, job: Job) -> dict[str, Option]:
    """What only several ranks have, and goes when there is one."""
    parallel = job.configuration.parallel
    if name == "tp" and size == 1 and parallel.sequence_parallel:
        return {"sequence_parallel": False}
    if name == "pp" and size == 1 and parallel.vpp > 1:
        return {"vpp": 1}
    return {}


def _neighbours(size: int, whole: int) -> Iterator[int]:
    """The next larger and the next smaller divisor of `whole`, if one is near."""
    larger = range(size + 1, min(8 * size, whole, size + _TRIED) + 1)
    smaller = range(size - 1, max(1, size - _TRIED) - 1, -1)
    for candidates in ((*larger, 2 * size), (*smaller, size // 2)):
        yield from [number for number in candidates if number and whole % number == 0][:1]


def _point(job: Job, values: dict[str, Option]) -> SweepPoint:
    try:
        return SweepPoint(values, job.with_(**values).configuration)
    except UserError as error:
        return SweepPoint(values, reason=str(error))
