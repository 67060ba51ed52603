"""What a search over layouts gives."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from vtrain_sim.decide.certainty import SURE
from vtrain_sim.decide.evaluated import Evaluated, layout_columns
from vtrain_sim.decide.own_layout import OwnLayout
from vtrain_sim.decide.request import Request
from vtrain_sim.inputs.megatron_emit import emit_flags
from vtrain_sim.results import Document, Result, Row
from vtrain_sim.simulate.result import Projection
from vtrain_sim.specs import TrainSpec

SCHEMA = "vtrain.plan/1"


@dataclass(frozen=True)
class Plan:
    """One plan. days and cost_usd include failures and checkpoints where they were given.

    best_is_better: probability that the best plan is better than this one (`decide.certainty`); 0.5 for itself.
    """

    projection: Projection
    days: float
    cost_usd: float
    best_is_better: float = 0.5
    checkpoint_interval_s: float | None = None

    @property
    def tied_with_best(self) -> bool:
        """Whether it is not sure that the best plan is better."""
        return self.best_is_better <= SURE

    def to_dict(self) -> Document:
        """The plan in the machine-readable result."""
        projection, c = self.projection, self.projection.configuration
        p, t = c.parallel, c.train
        document: Document = {
            **layout_columns(c),
            "sequence_parallel": p.sequence_parallel,
            "distributed_optimizer": p.distributed_optimizer,
            "fsdp": p.fsdp,
            "expert_tp": p.etp,
            "tp_comm_overlap": p.tp_comm_overlap,
            "overlap_moe_comm": p.overlap_moe_comm,
            "recompute": t.recompute_granularity,
            "recompute_modules": list(t.recomputed_modules),
            "recompute_layers": _recomputed_layers(t),
            "layers": list(c.chunk_layers),
            "schedule": c.schedule,
            "num_gpus": p.world_size,
            "iteration_time_s": projection.iteration_time_s,
            "iteration_time_low_s": projection.iteration_time_low_s,
            "iteration_time_high_s": projection.iteration_time_high_s,
            "days": self.days,
            "cost_usd": self.cost_usd,
            "mfu": projection.mfu,
            "peak_bytes": projection.memory.worst.peak_bytes,
            "best_is_better": self.best_is_better,
            "tied_with_best": self.tied_with_best,
            "megatron_args": emit_flags(c),
        }
        if self.checkpoint_interval_s is not None:
            document["checkpoint_interval_s"] = self.checkpoint_interval_s
        return document


def _recomputed_layers(train: TrainSpec) -> int | None:
    """Layers of each virtual stage that run again; None: all, or none, as recompute says."""
    block = train.recompute_granularity == "full" and train.recompute_method == "block"
    return train.recompute_num_layers if block else None


@dataclass(frozen=True, repr=False)
class PlanResult(Result):
    """What a search over layouts gives.

    plans: best first; of several that take the same time and memory, the simplest. pareto: no other plan is both faster
    and cheaper. candidates: how many the space has; evaluated: of them, those that were projected, as the others cannot
    be among the best; feasible: of these, those that fit and end in time. elapsed_s: seconds that the search took.
    every: the evaluated ones, with the reason where one was dropped. own: how the layout of the job that was planned
    ranks; None where a model was planned. interrupted: the search was stopped, and the plans are the best of what had
    been evaluated. runner_up: the best plan of another kind than the best, with other sizes of tensor, pipeline,
    context or expert parallelism, or fully sharded.

    >>> import vtrain as vt
    >>> result = vt.plan("gpt3-1.3b", cluster="dgx-a100-80gb", num_gpus=8, global_batch_size=64, top=3)
    >>> len(result.plans), result.plans[0].projection.memory.fits
    (3, True)
    """

    request: Request
    cluster: str
    candidates: int
    evaluated: int
    feasible: int
    elapsed_s: float
    plans: tuple[Plan, ...]
    pareto: tuple[Plan, ...]
    every: Evaluated
    own: OwnLayout | None = None
    interrupted: bool = False
    runner_up: Plan | None = None

    @property
    def gpu_counts(self) -> tuple[int, ...]:
        """Numbers of GPUs of the plans that are listed."""
        return tuple(sorted({p.projection.configuration.parallel.world_size for p in (*self.plans, *self.pareto)}))

    def to_dict(self) -> Document:
        """The machine-readable result, schema vtrain.plan/1."""
        document: Document = {
            "schema": SCHEMA,
            "model": self.request.model.name,
            "cluster": self.cluster,
            "rank_by": self.request.rank_by,
            "train_tokens": self.request.tokens,
            "candidates": self.candidates,
            "evaluated": self.evaluated,
            "feasible": self.feasible,
            "elapsed_s": self.elapsed_s,
            "interrupted": self.interrupted,
            "plans": [p.to_dict() for p in self.plans],
            "pareto": [p.to_dict() for p in self.pareto],
            "runner_up": self.runner_up.to_dict() if self.runner_up is not None else None,
        }
        return document if self.own is None else {**document, "own": self.own.to_dict()}

    def summary(self) -> dict[str, object]:
        """The size of the search and its best plan."""
        best = self.plans[0].to_dict()
        names = ("num_gpus", "tp", "pp", "dp", "mbs", "iteration_time_s", "days", "cost_usd")
        return {
            "model": self.request.model.name or None,
            "cluster": self.cluster,
            "candidates": self.candidates,
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
