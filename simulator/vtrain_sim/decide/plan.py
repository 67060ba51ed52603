"""The best plan for a model and a budget: evaluates the whole space, drops what does not fit, ranks."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from time import perf_counter

import numpy as np

from vtrain_sim.decide.collection import collection_paused
from vtrain_sim.decide.evaluated import (
    FITS,
    MOST_KEPT,
    TOO_LARGE,
    TOO_LATE,
    Booleans,
    Dropped,
    Evaluated,
    Figures,
    Floats,
    layout_columns,
)
from vtrain_sim.decide.failures import Failures
from vtrain_sim.decide.order import best_first
from vtrain_sim.decide.own_layout import OwnLayout
from vtrain_sim.decide.space import Bounds, configurations, filled, gpu_counts
from vtrain_sim.errors import UserError
from vtrain_sim.inputs.megatron_emit import emit_flags
from vtrain_sim.progress import Progress, unwatched
from vtrain_sim.results import Document, Result, Row
from vtrain_sim.simulate.batch import Evaluation
from vtrain_sim.simulate.memory import MARGIN
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.simulate.result import Projection, days_to_train, dollars, share_of_peak
from vtrain_sim.specs import Configuration, ModelSpec, TrainSpec
from vtrain_sim.specs.checks import SpecError, finite, one_of, positive
from vtrain_sim.specs.train import TOKENS

SCHEMA = "vtrain.plan/1"
RANKINGS = ("days", "dollars", "time", "mfu")
# Configurations evaluated together: enough to share, few enough to stay small in memory.
CHUNK = 8192


@dataclass(frozen=True)
class Request:
    """What to plan. tokens: to train on; 0: only iteration times are compared.

    num_gpus: exact counts; max_gpus: all up to so many. deadline_days: plans that take longer are
    dropped. failures: None: nothing breaks and no checkpoint is written. allow_tight: also plans that leave less
    memory than the margin of a projection (`simulate.memory.MARGIN`). own: the configuration of the job that is
    planned, which is ranked too; own_name: what it is called.
    """

    model: ModelSpec
    batches: tuple[int, ...]
    tokens: float = 0.0
    num_gpus: tuple[int, ...] = ()
    max_gpus: int = 0
    bounds: Bounds = field(default_factory=Bounds)
    base: TrainSpec = field(default_factory=lambda: TrainSpec(1, 1))
    rank_by: str = "days"
    deadline_days: float = 0.0
    failures: Failures | None = None
    allow_tight: bool = False
    own: Configuration | None = None
    own_name: str = ""

    def __post_init__(self) -> None:
        one_of("--rank-by", self.rank_by, RANKINGS)
        TOKENS.check("--train-tokens", self.tokens)
        finite("--deadline-days", self.deadline_days)
        if not self.batches:
            raise SpecError("--global-batch-size is missing: sequences of one step, or a list of several")
        for batch in self.batches:
            positive("--global-batch-size", batch)
        if self.num_gpus and self.max_gpus:
            raise SpecError("--num-gpus and --max-gpus say two different things: give exact numbers, or a largest one")
        if self.deadline_days and not self.tokens:
            raise SpecError("--deadline-days needs --train-tokens")


@dataclass(frozen=True)
class Plan:
    """One plan. days and cost_usd include failures and checkpoints where they were given."""

    projection: Projection
    days: float
    cost_usd: float
    tied_with_best: bool
    checkpoint_interval_s: float | None = None

    def to_dict(self) -> Document:
        """The plan in the machine-readable result."""
        projection, c = self.projection, self.projection.configuration
        p, t = c.parallel, c.train
        document: Document = {
            **layout_columns(c),
            "sequence_parallel": p.sequence_parallel,
            "distributed_optimizer": p.distributed_optimizer,
            "recompute": t.recompute_granularity,
            "schedule": c.schedule,
            "num_gpus": p.world_size,
            "iteration_time_s": projection.iteration_time_s,
            "iteration_time_low_s": projection.iteration_time_low_s,
            "iteration_time_high_s": projection.iteration_time_high_s,
            "days": self.days,
            "cost_usd": self.cost_usd,
            "mfu": projection.mfu,
            "peak_bytes": projection.memory.worst.peak_bytes,
            "tied_with_best": self.tied_with_best,
            "megatron_args": emit_flags(c),
        }
        if self.checkpoint_interval_s is not None:
            document["checkpoint_interval_s"] = self.checkpoint_interval_s
        return document


@dataclass(frozen=True, repr=False)
class PlanResult(Result):
    """What a search over layouts gives. plans: best first. pareto: no other plan is both faster and cheaper.

    evaluated, feasible: configurations. elapsed_s: seconds that the search took. every: all of them, with the reason
    where one was dropped. own: how the layout of the job that was planned ranks; None where a model was planned.

    >>> import vtrain as vt
    >>> result = vt.plan("gpt3-1.3b", cluster="dgx-a100-80gb", num_gpus=8, global_batch_size=64, top=3)
    >>> len(result.plans), result.plans[0].projection.memory.fits
    (3, True)
    """

    request: Request
    cluster: str
    evaluated: int
    feasible: int
    elapsed_s: float
    plans: tuple[Plan, ...]
    pareto: tuple[Plan, ...]
    every: Evaluated
    own: OwnLayout | None = None

    def to_dict(self) -> Document:
        """The machine-readable result, schema vtrain.plan/1."""
        document: Document = {
            "schema": SCHEMA,
            "model": self.request.model.name,
            "cluster": self.cluster,
            "rank_by": self.request.rank_by,
            "train_tokens": self.request.tokens,
            "evaluated": self.evaluated,
            "feasible": self.feasible,
            "elapsed_s": self.elapsed_s,
            "plans": [p.to_dict() for p in self.plans],
            "pareto": [p.to_dict() for p in self.pareto],
        }
        return document if self.own is None else {**document, "own": self.own.to_dict()}

    def summary(self) -> dict[str, object]:
        """The size of the search and its best plan."""
        best = self.plans[0].to_dict()
        names = ("num_gpus", "tp", "pp", "dp", "mbs", "iteration_time_s", "days", "cost_usd")
        return {
            "model": self.request.model.name or None,
            "cluster": self.cluster,
            "evaluated": self.evaluated,
            "feasible": self.feasible,
            "rank_by": self.request.rank_by,
            **{name: best[name] for name in names},
        }

    def rows(self) -> list[Row]:
        """One row per plan, best first; ``megatron_args`` is one command line."""
        return [_row(plan) for plan in self.plans]

    def tables(self) -> dict[str, list[Row]]:
        """The best plans, and the Pareto front of days and dollars."""
        return {"best plans": self.rows(), "Pareto front of days and dollars": [_row(plan) for plan in self.pareto]}


def _row(plan: Plan) -> Row:
    row = plan.to_dict()
    return {**row, "megatron_args": shlex.join(row["megatron_args"])}


class _Feasible:
    """The configurations that fit and end in time, gathered chunk by chunk.

    evaluated: configurations so far. tight: of them, those that leave too little memory. smallest_bytes: least peak
    memory of all of them. soonest_days: of those that fit.
    """

    def __init__(self) -> None:
        self.configurations: list[Configuration] = []
        self.evaluated = self.tight = 0
        self.smallest_bytes = self.soonest_days = math.inf
        self.dropped = Dropped()
        self._figures: list[Figures] = []

    def add(self, request: Request, projector: Projector, chunk: Sequence[Configuration]) -> None:
        """Evaluate a chunk of the space."""
        arrays = projector.evaluate(chunk)
        figures = _figures(request, projector, chunk, arrays)
        self.evaluated += len(chunk)
        self.smallest_bytes = min(self.smallest_bytes, float(arrays.peak_bytes.min()))
        fits, ends = _kept(request, arrays, figures)
        self.tight += int(arrays.tight.sum())
        if fits.any():
            self.soonest_days = min(self.soonest_days, float(figures.days[fits].min()))
        feasible = fits & ends
        self.configurations += [c for c, keep in zip(chunk, feasible, strict=True) if keep]
        self._figures.append(figures.pick(feasible))
        self.dropped.add(chunk, figures, fits, feasible)

    def figures(self) -> Figures:
        """Of all feasible configurations."""
        return Figures.joined(self._figures)


def plan(
    request: Request,
    projector: Projector,
    top: int = 10,
    progress: Progress = unwatched,
) -> PlanResult:
    """Search the whole space of a request; raises `UserError` where nothing is left, with what would help.

    progress: called with the configurations evaluated, those that are feasible, and the share of the space.
    """
    begin = perf_counter()
    cluster = projector.cluster
    domain, segment = cluster.gpus_per_node, cluster.intra_node.segment
    counts = gpu_counts(request.num_gpus, request.max_gpus, domain, segment)
    searched = filled(counts, request.model, request.batches, request.bounds, request.base)
    done = {n: index / len(searched) for index, n in enumerate(searched)}
    space = (
        c for n in searched for c in configurations(request.model, n, request.batches, request.bounds, request.base)
    )
    feasible = _Feasible()
    with collection_paused():
        for chunk in _chunks(space):
            feasible.add(request, projector, chunk)
            progress(feasible.evaluated, len(feasible.configurations), done[chunk[-1].parallel.world_size])
    if not feasible.configurations:
        raise UserError(_nothing(request, projector, counts, feasible))
    figures = feasible.figures()
    key = _key(request, figures)
    order = best_first(feasible.configurations, key)

    def planned(index: int) -> Plan:
        c, days, cost_usd = feasible.configurations[index], figures.days[index], figures.dollars[index]
        return Plan(projector.project(c), float(days), float(cost_usd), False, _checkpoint_interval_s(request, c))

    best = [planned(int(index)) for index in order[:top]]
    best_of_all = [feasible.configurations[index] for index in order[:MOST_KEPT]]
    front = [planned(index) for index in _pareto(feasible.configurations, figures)]
    limit = best[0].projection.iteration_time_high_s / best[0].projection.iteration_time_s
    return PlanResult(
        request,
        cluster.name,
        feasible.evaluated,
        len(feasible.configurations),
        perf_counter() - begin,
        tuple(_tie(p, request, key[order[0]], limit) for p in best),
        tuple(_tie(p, request, key[order[0]], limit) for p in front),
        Evaluated.of(best_of_all, figures.pick(order), feasible.dropped, feasible.evaluated),
        _own(request, projector, counts, key[order], best[0]) if request.own is not None else None,
    )


def _chunks(space: Iterator[Configuration]) -> Iterator[list[Configuration]]:
    while chunk := list(islice(space, CHUNK)):
        yield chunk


def _figures(request: Request, projector: Projector, chunk: Sequence[Configuration], arrays: Evaluation) -> Figures:
    cluster, seconds = projector.cluster, arrays.iteration_time_s
    gpus = np.array([c.parallel.world_size for c in chunk], dtype=np.float64)
    tokens = np.array([c.tokens_per_step for c in chunk], dtype=np.float64)
    steps = request.tokens / tokens if request.tokens else np.ones(len(chunk))
    days = days_to_train(steps, seconds)
    if request.failures is not None:
        stretch = {int(n): request.failures.stretch(int(n)) for n in np.unique(gpus)}
        days = days * np.array([stretch[int(n)] for n in gpus])
    mfu = share_of_peak(arrays.model_flops, gpus, cluster, request.base, seconds)
    with np.errstate(invalid="ignore"):  # a run that never ends, at no price
        return Figures(seconds, days, dollars(days, gpus, cluster), mfu, arrays.peak_bytes)


def _kept(request: Request, arrays: Evaluation, figures: Figures) -> tuple[Booleans, Booleans]:
    """Which configurations fit, and which end, before the deadline where there is one: [configurations] each."""
    fits = arrays.fits | arrays.tight if request.allow_tight else arrays.fits
    return fits, np.isfinite(figures.days) & (figures.days <= (request.deadline_days or math.inf))


def _key(request: Request, figures: Figures) -> Floats:
    """What plans are sorted by, the smallest first."""
    keys = {"time": figures.seconds, "days": figures.days, "dollars": figures.dollars, "mfu": -figures.mfu}
    return keys[request.rank_by]


def _pareto(configurations: Sequence[Configuration], figures: Figures) -> list[int]:
    """The Pareto front: plans that no other one beats in both days and dollars, fastest first."""
    front: list[int] = []
    cheapest = np.inf
    for index in best_first(configurations, figures.days, figures.dollars):
        if figures.dollars[index] < cheapest * (1 - 1e-9):
            front.append(int(index))
            cheapest = figures.dollars[index]
    return front


def _checkpoint_interval_s(request: Request, c: Configuration) -> float | None:
    failures = request.failures
    if failures is None:
        return None
    return failures.interval_s or failures.best_interval_s(c.parallel.world_size)


def _tie(plan: Plan, request: Request, best: float, limit: float) -> Plan:
    """A plan is tied with the best one where the bands of the two overlap."""
    p = plan.projection
    value = {"time": p.iteration_time_s, "days": plan.days, "dollars": plan.cost_usd, "mfu": -p.mfu}[request.rank_by]
    # MFU is the larger the shorter the time is.
    longer = best / value if request.rank_by == "mfu" else value / best
    low = p.iteration_time_low_s / p.iteration_time_s
    return replace(plan, tied_with_best=bool(limit >= longer * low))


def _own(request: Request, projector: Projector, counts: Sequence[int], keys: Floats, best: Plan) -> OwnLayout:
    """How the job's own layout ranks. keys: what plans are ranked by, the best first."""
    assert request.own is not None
    own, arrays = request.own, projector.evaluate([request.own])
    figures = _figures(request, projector, [own], arrays)
    days, key = float(figures.days[0]), float(_key(request, figures)[0])
    fits, ends = _kept(request, arrays, figures)
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
    better = int((keys < key - 1e-9 * abs(key)).sum())
    plan = Plan(projector.project(own), days, float(figures.dollars[0]), False, _checkpoint_interval_s(request, own))
    limit = best.projection.iteration_time_high_s / best.projection.iteration_time_s
    tied = _tie(plan, request, float(keys[0]), limit)
    return OwnLayout(
        request.own_name, tied, better + 1 if verdict == FITS else None, verdict, best.projection.configuration
    )


def _nothing(request: Request, projector: Projector, counts: Sequence[int], feasible: _Feasible) -> str:
    """Why no plan is left, and what would help."""
    where = f"{min(counts)} to {max(counts)} GPUs" if len(counts) > 1 else f"{counts[0]} GPUs"
    batches = ", ".join(map(str, request.batches))
    if not feasible.evaluated:
        return (
            f"no layout of {request.model.name or 'the model'} exists on {where} with a global batch of {batches} "
            "sequences: the data parallel size must divide the batch, and the layers and heads must divide over the "
            "rest; a batch that is a multiple of the GPUs, or fewer fixed sizes, would give some"
        )
    if math.isinf(feasible.soonest_days) and feasible.tight and not request.allow_tight:
        return (
            f"none of {feasible.evaluated} layouts fits with {MARGIN:.0%} of the memory to spare: {feasible.tight} do "
            "with less, and may run: --allow-tight ranks them"
        )
    if feasible.smallest_bytes > projector.cluster.device.memory_bytes:
        return (
            f"none of {feasible.evaluated} layouts fits: the smallest needs {feasible.smallest_bytes / 2**30:.0f} of "
            f"{projector.cluster.device.memory_bytes / 2**30:.0f} GiB; more GPUs (now at most {max(counts)}), a larger "
            "--max-tp or a smaller model would"
        )
    if request.failures is not None and math.isinf(feasible.soonest_days):
        return (
            f"no plan ever ends: one of {max(counts)} GPUs breaks more often than a checkpoint and a restart last; "
            "--gpu-mtbf-hours, --checkpoint-seconds, --checkpoint-interval and --restart-seconds say so"
        )
    return (
        f"no plan ends within {request.deadline_days:g} days: the fastest that fits takes {feasible.soonest_days:.3g} "
        f"days; more GPUs (now at most {max(counts)}) or a later --deadline-days would"
    )
