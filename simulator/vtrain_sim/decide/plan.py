"""The best plan for a model and a budget: searches the whole space, drops what does not fit, ranks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import islice
from time import perf_counter

from vtrain_sim.decide.certainty import probability_of_better
from vtrain_sim.decide.collection import collection_paused
from vtrain_sim.decide.evaluated import FITS, MOST_KEPT, TOO_LARGE, TOO_LATE, Evaluated, Figures, Floats
from vtrain_sim.decide.executors import IN_THIS_PROCESS, Workers
from vtrain_sim.decide.none_found import why_none
from vtrain_sim.decide.order import ROUNDING, best_first, undominated, without_twins
from vtrain_sim.decide.own_layout import OwnLayout
from vtrain_sim.decide.plan_result import Plan, PlanResult
from vtrain_sim.decide.request import Request
from vtrain_sim.decide.search.bounds import gpu_counts
from vtrain_sim.decide.search.in_parts import Outcome, search
from vtrain_sim.decide.search.incumbents import Incumbents, kind_of
from vtrain_sim.decide.search.space import Space
from vtrain_sim.errors import UserError
from vtrain_sim.progress import Progress, unwatched
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.simulate.result import Projection
from vtrain_sim.specs import Configuration

# Configurations evaluated together where all are: enough to share, few enough to stay small in memory.
_CHUNK = 8192


def plan(
    request: Request,
    projector: Projector,
    top: int = 10,
    progress: Progress = unwatched,
    workers: Workers = IN_THIS_PROCESS,
) -> PlanResult:
    """Search the whole space of a request; raises `UserError` where nothing is left, with what would help.

    progress: called with the configurations evaluated, those that are feasible, and the share of the space. workers:
    where a large space is searched in parts.
    """
    begin = perf_counter()
    cluster = projector.cluster
    domain, segment = cluster.gpus_per_node, cluster.intra_node.segment
    counts = gpu_counts(request.num_gpus, request.max_gpus, domain, segment)
    space = Space(request.model, counts, request.batches, request.bounds, request.base)
    incumbents = Incumbents(projector, request.objective(cluster), top, request.allow_tight)
    with collection_paused():
        if request.exhaustive:
            candidates, interrupted = _evaluate_all(space, incumbents, progress)
        else:
            candidates, interrupted = search(request, space, projector, incumbents, top, workers, progress)
    record = incumbents.record
    if not record.configurations:
        raise UserError(why_none(request, projector, counts, candidates, record))
    configurations, figures = record.configurations, record.feasible()
    key = incumbents.objective.key(figures)
    every = best_first(configurations, key)
    order = without_twins(every, key, figures.peak_bytes)
    first = int(order[0])

    @cache
    def projected(index: int) -> Projection:
        return projector.project(configurations[index])

    def planned(index: int) -> Plan:
        c, days, cost_usd = configurations[index], figures.days[index], figures.dollars[index]
        sure = probability_of_better(projected(first), projected(index), request.ratio(key[index], key[first]))
        return Plan(projected(index), float(days), float(cost_usd), sure, _checkpoint_interval_s(request, c))

    best_of_all = [configurations[index] for index in every[:MOST_KEPT]]
    other = next((int(i) for i in order if kind_of(configurations[i]) != kind_of(configurations[first])), None)
    best = tuple(planned(index) for index in order[:top].tolist())
    return PlanResult(
        request,
        cluster.name,
        candidates,
        record.evaluated,
        len(configurations),
        perf_counter() - begin,
        best,
        tuple(planned(index) for index in _pareto(configurations, figures)),
        Evaluated.of(best_of_all, figures.pick(every), record.dropped, record.evaluated),
        _own(request, projector, counts, key[order], best[0], incumbents, top) if request.own is not None else None,
        interrupted,
        planned(other) if other is not None else None,
    )


def _evaluate_all(space: Space, incumbents: Incumbents, progress: Progress) -> Outcome:
    """Evaluate every candidate. Raises `UserError` where all of them have a cost that is not known."""
    everything, record = space.configurations(), incumbents.record
    errors: list[UserError] = []
    try:
        while chunk := list(islice(everything, _CHUNK)):
            errors += incumbents.add(chunk)
            progress(record.evaluated, len(record.configurations), 0.0)
    except KeyboardInterrupt:
        if not record.configurations:
            raise
        return Outcome(record.evaluated, True)
    if errors and not record.evaluated:
        raise errors[0]
    return Outcome(record.evaluated + len(errors), False)


def _pareto(configurations: Sequence[Configuration], figures: Figures) -> list[int]:
    """The Pareto front: plans that no other one beats in both days and dollars, fastest first."""
    order = best_first(configurations, figures.days, figures.dollars)
    front: list[int] = order[undominated(figures.dollars[order])].tolist()
    return front


def _checkpoint_interval_s(request: Request, c: Configuration) -> float | None:
    failures = request.failures
    if failures is None:
        return None
    return failures.interval_s or failures.best_interval_s(c.parallel.world_size)


def _own(
    request: Request,
    projector: Projector,
    counts: Sequence[int],
    keys: Floats,
    best: Plan,
    incumbents: Incumbents,
    top: int,
) -> OwnLayout:
    """How the job's own layout ranks. keys: what plans are ranked by, the best first."""
    assert request.own is not None
    own, arrays = request.own, projector.evaluate([request.own])
    figures = incumbents.figures([own], arrays)
    days, key = float(figures.days[0]), float(incumbents.objective.key(figures)[0])
    fits, ends = incumbents.fits(arrays), incumbents.objective.in_time(figures)
    verdict = FITS
    if not fits[0]:
        verdict = TOO_LARGE
    elif not ends[0]:
        verdict = TOO_LATE
    elif own.parallel.world_size not in counts:
        verdict = f"it has another number of GPUs ({own.parallel.world_size}) than the plans"
    elif own.train.global_batch_size not in request.batches:
        verdict = f"it has another global batch ({own.train.global_batch_size}) than the plans"
    # As good as a plan but for rounding is no worse.
    better = int((keys < key - ROUNDING * abs(key)).sum())
    projection = projector.project(own)
    sure = probability_of_better(best.projection, projection, request.ratio(key, float(keys[0])))
    plan = Plan(projection, days, float(figures.dollars[0]), sure, _checkpoint_interval_s(request, own))
    return OwnLayout(
        request.own_name,
        plan,
        better + 1 if verdict == FITS else None,
        verdict,
        best.projection.configuration,
        at_least=not request.exhaustive and better >= top,
    )
