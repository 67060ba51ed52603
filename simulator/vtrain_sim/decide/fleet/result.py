"""Several policies for many jobs on one cluster, compared on the same jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vtrain_sim.decide.fleet.conditions import Conditions
from vtrain_sim.decide.fleet.jobs import Job
from vtrain_sim.decide.fleet.outcome import Outcome
from vtrain_sim.decide.fleet.placement import IDEAL
from vtrain_sim.results import Document, Result, Row, Table

SCHEMA = "vtrain.schedule/1"
_FIGURES = ("deadline_satisfactory_ratio", "mean_jct_s", "p95_jct_s", "makespan_s", "gpu_utilisation", "cost_usd")
# Columns of a trace that only some have.
_OF_TENANTS = ("tenant", "priority")


@dataclass(frozen=True, repr=False)
class FleetResult(Result):
    """Many jobs on one cluster, under each policy; times in seconds, cost in US dollars.

    conditions: placement, tenants, failures and restarts. outcomes: by policy, one per trace. jobs: of the last trace.
    counts: the numbers of GPUs at which speeds are projected, ascending: a job has one of them.
    notes: what became of a published trace.

    >>> import vtrain as vt
    >>> result = vt.schedule(
    ...     cluster="dgx-a100-80gb", num_gpus=8, jobs=3, models="gpt3-1.3b", global_batch_size=64, policies="fifo"
    ... )
    >>> result.rows()[0]["policy"], result.rows()[0]["finished"]
    ('fifo', 3.0)
    """

    cluster: str
    num_gpus: int
    price_per_gpu_hour: float
    conditions: Conditions
    outcomes: dict[str, list[Outcome]]
    jobs: tuple[Job, ...]
    counts: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> Document:
        """The machine-readable result, schema vtrain.schedule/1: figures are means over the traces, with their
        standard deviation as ``spread``."""
        return {
            "schema": SCHEMA,
            "cluster": self.cluster,
            "num_gpus": self.num_gpus,
            "restart_seconds": self.conditions.checkpoints.restart_s,
            "conditions": self._conditions(),
            "gpu_counts": list(self.counts),
            "policies": {name: self._figures(outcomes) for name, outcomes in self.outcomes.items()},
            "tenants": self.tenants().rows(),
            "notes": list(self.notes),
        }

    def _conditions(self) -> Row:
        conditions, checkpoints = self.conditions, self.conditions.checkpoints
        breakdowns = conditions.breakdowns
        return {
            "placement": conditions.placement.name if conditions.placement else IDEAL,
            "gpus_per_node": conditions.gpus_per_node,
            "migrate": conditions.migrate,
            "quotas": dict(conditions.quotas),
            "gpu_mtbf_hours": breakdowns.gpu_mtbf_hours if breakdowns else None,
            "repair_hours": breakdowns.repair_hours if breakdowns else None,
            "checkpoint_gb_per_s": checkpoints.node_bytes_per_s / 1e9,
            "checkpoint_bytes": {f"{model} {batch}": size for (model, batch), size in checkpoints.state_bytes.items()},
        }

    def _figures(self, outcomes: Sequence[Outcome]) -> Row:
        each = [outcome.to_dict(self.price_per_gpu_hour) for outcome in outcomes]
        means = {key: _mean([e[key] for e in each]) for key in each[0]}
        spread = {key: _spread([e[key] for e in each]) for key in _FIGURES}
        return {**means, "spread": spread, "traces": len(each)}

    def summary(self) -> dict[str, object]:
        """The cluster, and the share of deadlines that each policy meets."""
        met = {
            f"{name}_deadlines_met": self._figures(outcomes)["deadline_satisfactory_ratio"]
            for name, outcomes in self.outcomes.items()
        }
        return {"cluster": self.cluster, "num_gpus": self.num_gpus, "jobs": len(self.jobs), **met}

    def rows(self) -> list[Row]:
        """One row per policy."""
        return [
            {"policy": name, **{k: v for k, v in self._figures(outcomes).items() if k != "spread"}}
            for name, outcomes in self.outcomes.items()
        ]

    def stretches(self) -> Table:
        """Every stretch of every job in the last trace: a job on the same GPUs from start_s to end_s.

        >>> import vtrain as vt
        >>> result = vt.schedule(cluster="dgx-a100-80gb", num_gpus=8, jobs=2, models="gpt3-1.3b", policies="fifo")
        >>> result.stretches().rows()[0]["policy"]
        'fifo'
        """
        rows = [
            {"policy": name, **s.to_row()} for name, outcomes in self.outcomes.items() for s in outcomes[-1].stretches
        ]
        return Table("stretches", rows)

    def tenants(self) -> Table:
        """What each tenant had under each policy, in the last trace: no rows where jobs name no tenant.

        >>> import vtrain as vt
        >>> result = vt.schedule(cluster="dgx-a100-80gb", num_gpus=8, jobs=2, models="gpt3-1.3b", policies="fifo")
        >>> result.tenants().rows()
        []
        """
        named = bool(self.conditions.quotas) or any(job.tenant for job in self.jobs)
        each = self.outcomes.items() if named else ()
        return Table("tenants", [{"policy": name, **row} for name, outcomes in each for row in outcomes[-1].tenants()])

    def trace(self) -> Table:
        """The jobs of the last trace, as a trace file holds them.

        >>> import vtrain as vt
        >>> result = vt.schedule(cluster="dgx-a100-80gb", num_gpus=8, jobs=2, models="gpt3-1.3b", policies="fifo")
        >>> [row["model"] for row in result.trace().rows()]
        ['gpt3-1.3b', 'gpt3-1.3b']
        """
        plain = not any(job.tenant or job.priority for job in self.jobs)
        rows = [job.to_row() for job in self.jobs]
        return Table(
            "trace", [{k: v for k, v in row.items() if k not in _OF_TENANTS} for row in rows] if plain else rows
        )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _spread(values: Sequence[float | None]) -> float | None:
    """Standard deviation over the traces."""
    known = [v for v in values if v is not None]
    return float(np.std(known)) if known else None
