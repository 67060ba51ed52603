"""``timeline``: one step, operator by operator."""

from __future__ import annotations

from collections.abc import Iterable

from vtrain_sim.api.job import Job, job_of
from vtrain_sim.api.lists import numbers
from vtrain_sim.errors import UserError
from vtrain_sim.simulate.spans import Timeline
from vtrain_sim.simulate.timeline import timeline as simulate

# More spans than this are more than a viewer opens.
MOST_SPANS = 2_000_000
# Every operator of the step is simulated, whether it is kept or not: so many take minutes.
MOST_OPERATORS = 200_000_000
# A layer has about so many operators and communications in both directions.
_PER_LAYER = 50


def timeline(
    job: Job,
    stages: int | Iterable[int] | None = None,
    microbatches: int | Iterable[int] | None = None,
    operators: bool = True,
) -> Timeline:
    """The step of a job, operator by operator, on every stream of one rank of each pipeline stage.

    stages, microbatches: those whose spans are kept (default: all). operators: False keeps whole passes and what is
    done once per step alone. Raises `UserError` where a cost is not known, for a stage that is not there, or where
    more spans would be kept than a viewer opens.

    >>> import vtrain as vt
    >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, pp=2, mbs=1, gbs=16)
    >>> timeline = vt.timeline(job, stages=[0], microbatches=[0, 1])
    >>> sorted({span.track for span in timeline.spans})
    ['compute', 'dp', 'passes', 'pp']
    """
    configuration = job_of(job).configuration
    kept_stages, kept_microbatches = _chosen("stages", stages), _chosen("microbatches", microbatches)
    pp = configuration.parallel.pp
    for stage in kept_stages or ():
        if not 0 <= stage < pp:
            raise UserError(f"stage {stage} is not there: the pipeline has stages 0 to {pp - 1}")
    for microbatch in kept_microbatches or ():
        if not 0 <= microbatch < configuration.num_microbatches:
            raise UserError(
                f"microbatch {microbatch} is not there: a step has microbatches 0 to "
                f"{configuration.num_microbatches - 1}"
            )
    stage_count = len(set(kept_stages)) if kept_stages is not None else pp
    kept = len(set(kept_microbatches)) if kept_microbatches is not None else configuration.num_microbatches
    simulated = configuration.num_microbatches * configuration.model.num_layers * _PER_LAYER
    if simulated > MOST_OPERATORS:
        raise UserError(
            f"a step of {configuration.num_microbatches:,} microbatches is some {simulated:,} operators, more than "
            f"{MOST_OPERATORS:,}: choose a smaller --global-batch-size, or more data parallel ranks"
        )
    layers = max(configuration.stage_layers) * _PER_LAYER if operators else configuration.parallel.vpp * 2
    if stage_count * kept * layers > MOST_SPANS:
        raise UserError(
            f"{kept} microbatches on {stage_count} stages are some {stage_count * kept * layers:,} spans, more than "
            f"{MOST_SPANS:,}: choose some with --stages and --microbatches, or whole passes with --passes"
        )
    return simulate(job.machine.projector.evaluator, configuration, kept_stages, kept_microbatches, operators)


def _chosen(name: str, value: int | Iterable[int] | None) -> tuple[int, ...] | None:
    return None if value is None else numbers(name, value)
