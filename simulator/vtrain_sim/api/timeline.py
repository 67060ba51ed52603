"""``timeline``: one step, operator by operator."""

from __future__ import annotations

from collections.abc import Iterable

from vtrain_sim.api.job import Job, job_of
from vtrain_sim.api.lists import numbers
from vtrain_sim.errors import UserError
from vtrain_sim.report.tables import counted
from vtrain_sim.simulate.spans import DETAILS, Timeline, check_detail
from vtrain_sim.simulate.timeline import timeline as simulate
from vtrain_sim.specs import Configuration

# More spans than this are more than a viewer opens.
MOST_SPANS = 1_000_000
# As many as a trace of 50 MB has that is not compressed.
MOST_UNCOMPRESSED = 180_000
# Every operator of the step is simulated, whether it is kept or not: so many take minutes.
MOST_OPERATORS = 200_000_000
# A layer has about so many operators and communications in both directions, and so many spans with their launches.
_PER_LAYER, _SPANS_PER_LAYER = 50, 70
_Numbers = int | Iterable[int] | None


def timeline(
    job: Job,
    stages: _Numbers = None,
    microbatches: _Numbers = None,
    detail: str = "",
    most_spans: int = MOST_SPANS,
) -> Timeline:
    """The step of a job, operator by operator, on every stream of one rank of each pipeline stage.

    stages, microbatches: those whose spans are kept (default: all). detail: ``passes`` keeps whole passes and what is
    done once per step, ``layers`` the parts of the model too, ``operators`` everything; default: the most that stays
    below most_spans. Raises `UserError` where a cost is not known, for a stage that is not there, or where more spans
    would be kept than most_spans.

    >>> import vtrain as vt
    >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, pp=2, mbs=1, gbs=16)
    >>> timeline = vt.timeline(job, stages=[0], microbatches=[0, 1])
    >>> sorted({span.track for span in timeline.spans})
    ['compute', 'dp', 'host', 'layers', 'passes', 'pp', 'pp send']
    """
    configuration = job_of(job).configuration
    if detail:
        check_detail(detail)
    pp, count = configuration.parallel.pp, configuration.num_microbatches
    kept_stages = _chosen("stages", stages, "stage", "the pipeline has stages", pp)
    kept_microbatches = _chosen("microbatches", microbatches, "microbatch", "a step has microbatches", count)
    simulated = count * configuration.model.num_layers * _PER_LAYER
    if simulated > MOST_OPERATORS:
        raise UserError(
            f"a step of {count:,} microbatches is some {simulated:,} operators, more than "
            f"{MOST_OPERATORS:,}: choose a smaller --global-batch-size, or more data parallel ranks"
        )
    passes = len(kept_stages or range(pp)) * len(kept_microbatches or range(count))
    spans = {name: passes * _per_microbatch(configuration, name) for name in DETAILS}
    chosen = detail or next((name for name in reversed(DETAILS) if spans[name] <= most_spans), DETAILS[0])
    if spans[chosen] > most_spans:
        coarser = [name for name in DETAILS[: DETAILS.index(chosen)] if spans[name] <= most_spans]
        raise UserError(
            f"{counted(len(kept_microbatches or range(count)), 'microbatches')} on "
            f"{counted(len(kept_stages or range(pp)), 'stages')} are some {spans[chosen]:,} spans, more than "
            f"{most_spans:,}: choose some with --stages and --microbatches"
            + (f", or --detail {coarser[-1]}" if coarser else "")
        )
    return simulate(job.machine.projector.evaluator, configuration, kept_stages, kept_microbatches, chosen)


def _per_microbatch(configuration: Configuration, detail: str) -> int:
    """About how many spans a microbatch has on a stage."""
    layers = max(configuration.stage_layers)
    # A pass in each direction, and its transfers.
    passes = 6 * configuration.parallel.vpp
    return passes + {"passes": 0, "layers": 2 * layers, "operators": layers * _SPANS_PER_LAYER}[detail]


def _chosen(name: str, value: _Numbers, thing: str, there: str, size: int) -> tuple[int, ...] | None:
    """Numbers of stages or microbatches, of `size` that are there."""
    if value is None:
        return None
    chosen = numbers(name, value)
    for number in chosen:
        if not 0 <= number < size:
            raise UserError(f"{thing} {number} is not there: {there} 0 to {size - 1}")
    return chosen
