"""Several policies for many jobs on one cluster, compared on the same jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vtrain_sim.decide.fleet.jobs import Job
from vtrain_sim.decide.fleet.simulate import Outcome
from vtrain_sim.results import Document, Result, Row, Table

SCHEMA = "vtrain.schedule/1"
_FIGURES = ("deadline_satisfactory_ratio", "mean_jct_s", "p95_jct_s", "makespan_s", "gpu_utilisation", "cost_usd")


@dataclass(frozen=True, repr=False)
class FleetResult(Result):
    """Many jobs on one cluster, under each policy; times in seconds, cost in US dollars.

    outcomes: by policy, one per trace. jobs: of the last trace. restart_s: seconds of a checkpoint and
    restart when a job's GPUs change. counts: the numbers of GPUs at which speeds are projected, ascending: a job has
    one of them.

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
    restart_s: float
    outcomes: dict[str, list[Outcome]]
    jobs: tuple[Job, ...]
    counts: tuple[int, ...]

    def to_dict(self) -> Document:
        """The machine-readable result, schema vtrain.schedule/1: figures are means over the traces, with their
        standard deviation as ``spread``."""
        return {
            "schema": SCHEMA,
            "cluster": self.cluster,
            "num_gpus": self.num_gpus,
            "restart_seconds": self.restart_s,
            "gpu_counts": list(self.counts),
            "policies": {name: self._figures(outcomes) for name, outcomes in self.outcomes.items()},
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
        rows = [{"policy": name, **vars(s)} for name, outcomes in self.outcomes.items() for s in outcomes[-1].stretches]
        return Table("stretches", rows)

    def trace(self) -> Table:
        """The jobs of the last trace, as a trace file holds them.

        >>> import vtrain as vt
        >>> result = vt.schedule(cluster="dgx-a100-80gb", num_gpus=8, jobs=2, models="gpt3-1.3b", policies="fifo")
        >>> [row["model"] for row in result.trace().rows()]
        ['gpt3-1.3b', 'gpt3-1.3b']
        """
        return Table("trace", [job.to_row() for job in self.jobs])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _spread(values: Sequence[float | None]) -> float | None:
    """Standard deviation over the traces."""
    known = [v for v in values if v is not None]
    return float(np.std(known)) if known else None
