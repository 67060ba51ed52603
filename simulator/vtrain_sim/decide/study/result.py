"""What a study gives."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_sim.decide.study.unit import SCHEMA
from vtrain_sim.results import Document, Result, Row

# Of the layout of a plan, and its figures.
LAYOUT = (*("num_gpus", "schedule", "tp", "pp", "vpp", "dp", "cp", "ep", "mbs", "recompute", "distributed_optimizer"),)
FIGURES = ("iteration_time_s", "days", "cost_usd", "mfu", "peak_bytes")


@dataclass(frozen=True, repr=False)
class StudyResult(Result):
    """Results of all units of a study, in their order: plans (at most `Unit.top`), or a reason.

    >>> import vtrain as vt
    >>> result = vt.study("study.toml", out="results")
    >>> result.rows()[0]["model"]
    'gpt3-1.3b'
    """

    results: tuple[Document, ...]

    def summary(self) -> dict[str, object]:
        """Units, and how many have a plan."""
        return {"units": len(self.results), "planned": sum(bool(r.get("plans")) for r in self.results)}

    def rows(self) -> list[Row]:
        """The best plan of each unit; times in seconds, cost in US dollars, memory in bytes."""
        return [_best_row(result) for result in self.results]

    def to_dict(self) -> Document:
        """All results, each of schema vtrain.study/1."""
        return {"schema": SCHEMA, "results": list(self.results)}

    def document(self) -> object:
        """The list of results."""
        return list(self.results)


def _best_row(result: Document) -> Row:
    unit, best = result["unit"], (result.get("plans") or [{}])[0]
    return {
        **{name: unit[name] for name in ("model", "cluster", "global_batch_size")},
        **{name: best.get(name) for name in (*LAYOUT, *FIGURES)},
        "reason": result.get("reason", ""),
    }
