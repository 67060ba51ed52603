"""``timeline``: one step, operator by operator."""

from __future__ import annotations

from collections.abc import Collection

from vtrain_sim.api.job import Job
from vtrain_sim.errors import UserError
from vtrain_sim.simulate.spans import Timeline
from vtrain_sim.simulate.timeline import timeline as simulate

# More spans than this are more than a viewer opens.
MOST_SPANS = 2_000_000


def timeline(
    job: Job,
    stages: Collection[int] | None = None,
    microbatches: Collection[int] | None = None,
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
    configuration = job.configuration
    pp = configuration.parallel.pp
    for stage in stages or ():
        if not 0 <= stage < pp:
            raise UserError(f"stage {stage} is not there: the pipeline has stages 0 to {pp - 1}")
    for microbatch in microbatches or ():
        if not 0 <= microbatch < configuration.num_microbatches:
            raise UserError(
                f"microbatch {microbatch} is not there: a step has microbatches 0 to "
                f"{configuration.num_microbatches - 1}"
            )
    kept_stages = len(set(stages)) if stages is not None else pp
    kept = len(set(microbatches)) if microbatches is not None else configuration.num_microbatches
    # A layer has some 50 operators and communications in both directions.
    layers = max(configuration.stage_layers) * 50 if operators else configuration.parallel.vpp * 2
    if kept_stages * kept * layers > MOST_SPANS:
        raise UserError(
            f"{kept} microbatches on {kept_stages} stages are some {kept_stages * kept * layers:,} spans, more than "
            f"{MOST_SPANS:,}: choose some with --stages and --microbatches, or whole passes with --passes"
        )
    return simulate(job.machine.projector.evaluator, configuration, stages, microbatches, operators)
