"""The best plan for a model and a budget: evaluates the whole space, drops what does not fit, ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.decide.failures import Failures
from vtrain_sim.decide.space import Bounds, configurations, gpu_counts
from vtrain_sim.errors import UserError
from vtrain_sim.inputs.megatron_flags import emit_flags
from vtrain_sim.simulate.projection import Projection, Projector, days_to_train, dollars, utilisation
from vtrain_sim.specs import Configuration, ModelSpec, TrainSpec
from vtrain_sim.specs.validation import SpecError, finite, one_of, positive

SCHEMA = "vtrain.plan/1"
RANKINGS = ("days", "dollars", "time", "utilisation")
# Configurations evaluated together: enough to share, few enough to stay small in memory.
CHUNK = 8192

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Request:
    """What to plan. tokens: to train on; 0: only iteration times are compared.

    num_gpus: exact counts; max_gpus: all up to so many. deadline_days: plans that take longer are
    dropped. failures: None: nothing breaks and no checkpoint is written.
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

    def __post_init__(self) -> None:
        one_of("--rank-by", self.rank_by, RANKINGS)
        finite("--train-tokens", self.tokens)
        finite("--deadline-days", self.deadline_days)
        if not self.batches:
            raise SpecError("--global-batch-size is missing: sequences of one step, or a list of several")
        for batch in self.batches:
            positive("--global-batch-size", batch)
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

    def to_dict(self) -> dict[str, Any]:
        """The plan in the machine-readable result."""
        projection, c = self.projection, self.projection.configuration
        p, t = c.parallel, c.train
        found = {
            "tp": p.tp,
            "pp": p.pp,
            "vpp": p.vpp,
            "dp": p.dp,
            "cp": p.cp,
            "ep": p.ep,
            "mbs": t.micro_batch_size,
            "global_batch_size": t.global_batch_size,
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
            found["checkpoint_interval_s"] = self.checkpoint_interval_s
        return found


@dataclass(frozen=True)
class PlanResult:
    """What a search found. plans: best first. pareto: no other plan is both faster and cheaper."""

    request: Request
    cluster: str
    evaluated: int
    feasible: int
    elapsed_s: float
    plans: tuple[Plan, ...]
    pareto: tuple[Plan, ...]

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable result, schema vtrain.plan/1."""
        return {
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


class _Kept:
    """Columns of the feasible configurations, gathered chunk by chunk."""

    def __init__(self) -> None:
        self.configurations: list[Configuration] = []
        self.columns: list[Floats] = []  # seconds, GPUs, days, dollars, utilisation

    def add(self, chunk: Sequence[Configuration], rows: Floats, keep: NDArray[np.bool_]) -> None:
        self.configurations += [c for c, k in zip(chunk, keep, strict=True) if k]
        self.columns.append(rows[:, keep])

    def table(self) -> Floats:
        return np.concatenate(self.columns, axis=1) if self.columns else np.zeros((5, 0))


def plan(
    request: Request,
    projector: Projector,
    top: int = 10,
    progress: Callable[[int, int], None] = lambda done, feasible: None,
) -> PlanResult:
    """Search the whole space of a request; raises `UserError` where nothing is left, with what would help."""
    begin = perf_counter()
    cluster = projector.cluster
    counts = gpu_counts(request.num_gpus, request.max_gpus, cluster.gpus_per_node)
    space = (c for n in counts for c in configurations(request.model, n, request.batches, request.bounds, request.base))
    kept, evaluated, smallest, soonest = _Kept(), 0, np.inf, np.inf
    for chunk in _chunks(space):
        found = projector.evaluate(chunk)
        evaluated += len(chunk)
        rows = _columns(request, projector, chunk, found.iteration_time_s, found.model_flops)
        smallest = min(smallest, float(found.peak_bytes.min()))
        if found.fits.any():
            soonest = min(soonest, float(rows[2, found.fits].min()))
        keep = found.fits & (rows[2] <= request.deadline_days if request.deadline_days else True)
        kept.add(chunk, rows, keep)
        progress(evaluated, len(kept.configurations))
    table = kept.table()
    if not table.shape[1]:
        raise UserError(_nothing(request, projector, counts, evaluated, smallest, soonest))
    order = np.argsort(_key(request, table), kind="stable")
    best = [_plan(request, projector, kept.configurations[i], table[:, i]) for i in order[:top]]
    front = [_plan(request, projector, kept.configurations[i], table[:, i]) for i in _pareto(table)]
    limit = best[0].projection.iteration_time_high_s / best[0].projection.iteration_time_s
    key = _key(request, table)[order[0]]
    return PlanResult(
        request,
        cluster.name,
        evaluated,
        table.shape[1],
        perf_counter() - begin,
        tuple(_tie(p, request, key, limit) for p in best),
        tuple(_tie(p, request, key, limit) for p in front),
    )


def _chunks(space: Iterator[Configuration]) -> Iterator[list[Configuration]]:
    while chunk := list(islice(space, CHUNK)):
        yield chunk


def _columns(
    request: Request, projector: Projector, chunk: Sequence[Configuration], seconds: Floats, flops: Floats
) -> Floats:
    """[seconds, GPUs, days, dollars, utilisation] of each configuration."""
    cluster = projector.cluster
    gpus = np.array([c.parallel.world_size for c in chunk], dtype=np.float64)
    tokens = np.array([c.tokens_per_step for c in chunk], dtype=np.float64)
    steps = request.tokens / tokens if request.tokens else np.ones(len(chunk))
    days = days_to_train(steps, seconds)
    if request.failures is not None:
        stretch = {int(n): request.failures.stretch(int(n)) for n in np.unique(gpus)}
        days = days * np.array([stretch[int(n)] for n in gpus])
    mfu = utilisation(flops, gpus, cluster, request.base, seconds)
    return np.stack([seconds, gpus, days, dollars(days, gpus, cluster), mfu])


def _key(request: Request, table: Floats) -> Floats:
    column = {"time": 0, "days": 2, "dollars": 3, "utilisation": 4}[request.rank_by]
    sign = -1.0 if request.rank_by == "utilisation" else 1.0
    found: Floats = sign * table[column]
    return found


def _pareto(table: Floats) -> list[int]:
    """Plans that no other one beats in both days and dollars, fastest first."""
    order = np.lexsort((table[3], table[2]))
    front: list[int] = []
    cheapest = np.inf
    for index in order:
        if table[3, index] < cheapest * (1 - 1e-9):
            front.append(int(index))
            cheapest = table[3, index]
    return front


def _plan(request: Request, projector: Projector, c: Configuration, row: Floats) -> Plan:
    failures = request.failures
    interval = None
    if failures is not None:
        interval = failures.interval_s or failures.best_interval_s(c.parallel.world_size)
    return Plan(projector.project(c), float(row[2]), float(row[3]), False, interval)


def _tie(found: Plan, request: Request, best: float, limit: float) -> Plan:
    """A plan is tied with the best one where the bands of the two overlap."""
    p = found.projection
    value = {"time": p.iteration_time_s, "days": found.days, "dollars": found.cost_usd, "utilisation": -p.mfu}[
        request.rank_by
    ]
    # A utilisation is the larger the shorter the time is.
    longer = best / value if request.rank_by == "utilisation" else value / best
    low = p.iteration_time_low_s / p.iteration_time_s
    return replace(found, tied_with_best=bool(limit >= longer * low))


def _nothing(
    request: Request, projector: Projector, counts: Sequence[int], evaluated: int, smallest: float, soonest: float
) -> str:
    where = f"{min(counts)} to {max(counts)} GPUs" if len(counts) > 1 else f"{counts[0]} GPUs"
    batches = ", ".join(map(str, request.batches))
    if not evaluated:
        return (
            f"no layout of {request.model.name or 'the model'} exists on {where} with a global batch of {batches} "
            "sequences: the data parallel size must divide the batch, and the layers and heads must divide over the "
            "rest; a batch that is a multiple of the GPUs, or fewer fixed sizes, would give some"
        )
    if smallest > projector.cluster.device.memory_bytes:
        return (
            f"none of {evaluated} layouts fits: the smallest needs {smallest / 2**30:.0f} of "
            f"{projector.cluster.device.memory_bytes / 2**30:.0f} GiB; more GPUs (now at most {max(counts)}), a larger "
            "--max-tp or a smaller model would"
        )
    return (
        f"no plan ends within {request.deadline_days:g} days: the fastest that fits takes {soonest:.1f} days; more "
        f"GPUs (now at most {max(counts)}) or a later --deadline-days would"
    )
