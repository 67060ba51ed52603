"""Sizes a model: every candidate is planned, and what counts is the utilisation that its best plan reaches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from vtrain_sim.decide import Bounds, Plan, Request, plan
from vtrain_sim.decide.sizing.laws import LAWS, largest_parameters, tokens_for
from vtrain_sim.decide.sizing.shapes import candidates, parameters
from vtrain_sim.decide.space import divisors
from vtrain_sim.errors import UserError
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import ModelSpec, TrainSpec
from vtrain_sim.specs.validation import finite, positive

SCHEMA = "vtrain.size/1"
# Utilisations between which the best plan of any candidate lies: only those candidates are planned.
_LEAST, _MOST = 0.2, 0.75
# A plan may leave a few GPUs idle where they do not divide.
_USED = 0.9


@dataclass(frozen=True)
class Candidate:
    """One model with its best plan. naive_days: what it would take at the devices' peak."""

    model: ModelSpec
    parameters: float
    tokens: float
    naive_days: float
    plan: Plan | None

    @property
    def days(self) -> float:
        """Days of the best plan; infinite without one."""
        return self.plan.days if self.plan is not None else float("inf")

    def to_dict(self) -> dict[str, Any]:
        """The candidate in the machine-readable result."""
        return {
            "num_layers": self.model.num_layers,
            "hidden_size": self.model.hidden_size,
            "num_attention_heads": self.model.num_attention_heads,
            "parameters": self.parameters,
            "tokens": self.tokens,
            "naive_days": self.naive_days,
            "days": self.plan.days if self.plan else None,
            "utilisation": self.plan.projection.mfu if self.plan else None,
            "plan": self.plan.to_dict() if self.plan else None,
        }


@dataclass(frozen=True)
class SizeResult:
    """naive_parameters: what the budget would pay for at full utilisation. naive: the candidate next to
    that, as it would really train. chosen: the largest that trains in time."""

    cluster: str
    num_gpus: int
    days: float
    law: str
    naive_parameters: float
    naive: Candidate
    candidates: tuple[Candidate, ...]
    chosen: Candidate

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable result, schema vtrain.size/1."""
        return {
            "schema": SCHEMA,
            "cluster": self.cluster,
            "num_gpus": self.num_gpus,
            "days": self.days,
            "law": self.law,
            "law_source": LAWS[self.law].source,
            "naive_parameters": self.naive_parameters,
            "naive_tokens": tokens_for(self.naive_parameters, self.law),
            "naive_model": self.naive.to_dict(),
            "candidates": [c.to_dict() for c in self.candidates],
            "chosen": self.chosen.to_dict(),
        }


def size(
    projector: Projector,
    num_gpus: int,
    days: float,
    batches: tuple[int, ...],
    law: str = "chinchilla-20",
    seq_length: int = 2048,
    vocab_size: int = 51200,
    base: TrainSpec | None = None,
    bounds: Bounds | None = None,
    progress: Callable[[int, int], None] = lambda done, feasible: None,
) -> SizeResult:
    """The largest compute-optimal model that trains on so many GPUs in so many days.

    Raises `UserError` where even the smallest candidate does not, with what would help.
    """
    positive("--num-gpus", num_gpus)
    finite("--days", days, 1e-6)
    base = base or TrainSpec(1, 1)
    flops = num_gpus * projector.cluster.device.peak(base.params_dtype) * days * 86400
    naive_parameters = largest_parameters(flops, law)
    models = candidates(
        seq_length, vocab_size, largest_parameters(_LEAST * flops, law), largest_parameters(_MOST * flops, law)
    )
    nearest_naive = candidates(seq_length, vocab_size, 0.8 * naive_parameters, naive_parameters)
    if not models or not nearest_naive:
        raise UserError(
            f"{num_gpus} GPUs in {days:g} days pay for a model of at most {naive_parameters / 1e9:.3g} billion "
            "parameters, for which there is no published shape (0.3 to 2,000 billion): change --num-gpus or --days"
        )

    def planned(model: ModelSpec) -> Candidate:
        count = parameters(model)
        tokens = tokens_for(count, law)
        naive = 6 * count * tokens / flops * days
        return Candidate(model, count, tokens, naive, _best(model, tokens, projector, num_gpus, batches, base, bounds))

    found: list[Candidate] = []
    for model in models:
        found.append(planned(model))
        progress(len(found), sum(c.days <= days for c in found))
    fitting = [c for c in found if c.days <= days]
    if not fitting:
        fastest = min(found, key=lambda c: c.days)
        raise UserError(
            f"no candidate trains in {days:g} days: {fastest.model.name} ({fastest.parameters / 1e9:.3g} billion "
            f"parameters) would take {fastest.days:.1f}; more GPUs, more days or another --global-batch-size would help"
        )
    naive = next((c for c in found if c.model == nearest_naive[-1]), None) or planned(nearest_naive[-1])
    return SizeResult(
        projector.cluster.name,
        num_gpus,
        days,
        law,
        naive_parameters,
        naive,
        tuple(found),
        max(fitting, key=lambda c: c.parameters),
    )


def _best(
    model: ModelSpec,
    tokens: float,
    projector: Projector,
    num_gpus: int,
    batches: tuple[int, ...],
    base: TrainSpec,
    bounds: Bounds | None,
) -> Plan | None:
    """The fastest plan on nearly all of the GPUs."""
    bounds = bounds or Bounds(recompute=("none", "full"))
    counts = {
        tp * pp * dp
        for tp in (1, 2, 4, 8)
        if tp <= bounds.max_tp
        for pp in divisors(model.num_layers)
        if pp <= bounds.max_pp
        for batch in batches
        for dp in divisors(batch)
        if dp <= bounds.max_dp
        if _USED * num_gpus <= tp * pp * dp <= num_gpus
    }
    if not counts:
        return None
    # Tensor parallelism over a node is what large models need; smaller sizes are searched where they fit.
    request = Request(model, batches, tokens, num_gpus=tuple(sorted(counts)), bounds=bounds, base=replace(base))
    try:
        return plan(request, projector, top=1).plans[0]
    except UserError:
        return None  # nothing fits
