"""What a sizing finds."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_sim.decide import Plan
from vtrain_sim.decide.failures import Failures
from vtrain_sim.decide.sizing.shapes import Shape
from vtrain_sim.decide.sizing.tokens import TokenRule
from vtrain_sim.results import Document, Result, Row
from vtrain_sim.specs import ModelSpec

SCHEMA = "vtrain.size/1"


@dataclass(frozen=True)
class Candidate:
    """One model with its best plan on a number of GPUs.

    parameters: all; active_parameters: those that a token uses, which the law counts (fewer with experts).
    naive_days: what it would take at the devices' peak. loss: nats per token by the law; None where it says none.
    serving_flops, serving_usd: of the tokens that it serves over its life (0: none; None: not known at which MFU or
    price).
    """

    model: ModelSpec
    num_gpus: int
    parameters: float
    active_parameters: float
    tokens: float
    naive_days: float
    plan: Plan | None
    loss: float | None = None
    serving_flops: float = 0.0
    serving_usd: float | None = None

    @property
    def days(self) -> float:
        """Days of the best plan; infinite without one."""
        return self.plan.days if self.plan is not None else float("inf")

    @property
    def cost_usd(self) -> float:
        """US dollars of its training; infinite without a plan, 0 where no price is known."""
        return self.plan.cost_usd if self.plan is not None else float("inf")

    def to_dict(self) -> Document:
        """The candidate in the machine-readable result."""
        return {
            "num_layers": self.model.num_layers,
            "hidden_size": self.model.hidden_size,
            "num_attention_heads": self.model.num_attention_heads,
            "parameters": self.parameters,
            "active_parameters": self.active_parameters,
            "tokens": self.tokens,
            "loss": self.loss,
            "naive_days": self.naive_days,
            "days": self.plan.days if self.plan else None,
            "cost_usd": self.plan.cost_usd if self.plan else None,
            "serving_flops": self.serving_flops,
            "serving_usd": self.serving_usd,
            "mfu": self.plan.projection.mfu if self.plan else None,
            "num_gpus": self.num_gpus,
            "plan": self.plan.to_dict() if self.plan else None,
        }


@dataclass(frozen=True, repr=False)
class SizeResult(Result):
    """Model sizes for a budget of GPUs and days.

    num_gpus: the most that may be used; gpu_counts: all that were tried. naive_parameters: those that a token would
    use in the model that the budget would pay for at an MFU of 100%. naive: the candidate next to that, as it would
    really train. chosen: the largest candidate that trains in time. frontier: candidates than
    which no other one is as large, as soon done and as cheap. notes: what holds it down, in sentences.

    >>> import vtrain as vt
    >>> result = vt.size(cluster="dgx-a100-80gb", num_gpus=16, days=10, global_batch_size=256)
    >>> result.chosen.days <= 10 and result.chosen.parameters < result.naive_parameters
    True
    """

    cluster: str
    gpu_counts: tuple[int, ...]
    days: float
    rule: TokenRule
    shape: Shape
    failures: Failures | None
    naive_parameters: float
    naive: Candidate
    candidates: tuple[Candidate, ...]
    chosen: Candidate
    frontier: tuple[Candidate, ...]
    notes: tuple[str, ...] = ()

    @property
    def num_gpus(self) -> int:
        """The most GPUs of the budget."""
        return max(self.gpu_counts)

    def to_dict(self) -> Document:
        """The machine-readable result, schema vtrain.size/1."""
        return {
            "schema": SCHEMA,
            "cluster": self.cluster,
            "num_gpus": self.num_gpus,
            "gpu_counts": list(self.gpu_counts),
            "days": self.days,
            "shape": self.shape.name,
            "shape_source": self.shape.source,
            "law": self.rule.law.name,
            "law_source": self.rule.law.source,
            "law_equation": self.rule.law.equation,
            "tokens_source": self.rule.source,
            "tokens_per_parameter": self.rule.tokens_per_parameter or None,
            "inference_tokens": self.rule.served or None,
            "inference_mfu": self.rule.inference_mfu or None,
            "gpu_mtbf_hours": self.failures.gpu_mtbf_hours if self.failures else None,
            "naive_parameters": self.naive_parameters,
            "naive_tokens": self.rule.tokens(self.naive_parameters),
            "naive_model": self.naive.to_dict(),
            "candidates": [c.to_dict() for c in self.candidates],
            "chosen": self.chosen.to_dict(),
            "frontier": [c.to_dict() for c in self.frontier],
            "notes": list(self.notes),
        }

    def summary(self) -> dict[str, object]:
        """The budget and the model that was chosen."""
        chosen = self.chosen.to_dict()
        names = ("num_layers", "hidden_size", "parameters", "tokens", "days", "mfu")
        return {
            "cluster": self.cluster,
            "num_gpus": self.num_gpus,
            "law": self.rule.law.name,
            **{name: chosen[name] for name in names},
        }

    def rows(self) -> list[Row]:
        """One row per candidate, smallest first."""
        front = set(map(id, self.frontier))
        return [{**_row(c), "on_frontier": id(c) in front} for c in self.candidates]

    def tables(self) -> dict[str, list[Row]]:
        """All candidates, and those on the frontier of size, days and dollars."""
        return {"candidates": self.rows(), "frontier of size, days and dollars": [_row(c) for c in self.frontier]}


def _row(candidate: Candidate) -> Row:
    return {name: value for name, value in candidate.to_dict().items() if name != "plan"}
