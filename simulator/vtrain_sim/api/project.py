"""``project``: what one configuration would do."""

from __future__ import annotations

from dataclasses import replace

from vtrain_sim.api.job import Job, job_of
from vtrain_sim.simulate.result import Projection
from vtrain_sim.specs.cluster import PRICE
from vtrain_sim.specs.train import TOKENS


def project(job: Job, train_tokens: float | None = None, price_per_gpu_hour: float | None = None) -> Projection:
    """Project a job: time per step, where it goes, memory, MFU.

    train_tokens: tokens to train on (default: those of the job's spec file, if any); the result then has days and US
    dollars. price_per_gpu_hour: US dollars,
    instead of the cluster's. Raises `UserError` where a cost is not known.

    >>> import vtrain as vt
    >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
    >>> projection = vt.project(job, train_tokens=1e9)
    >>> abs(sum(projection.breakdown_s.values()) / projection.iteration_time_s - 1) < 1e-6
    True
    """
    tokens = job_of(job).train_tokens if train_tokens is None else train_tokens
    TOKENS.check("--train-tokens", tokens)
    projection = replace(job.machine.projector.project(job.configuration), train_tokens=tokens)
    if price_per_gpu_hour is None:
        return projection
    PRICE.check("--price-per-gpu-hour", price_per_gpu_hour)
    return replace(projection, cluster=replace(projection.cluster, price_per_gpu_hour=price_per_gpu_hour))
