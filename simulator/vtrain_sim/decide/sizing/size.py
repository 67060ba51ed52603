"""Sizes a model: every candidate is planned, and what counts is the MFU of its best plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vtrain_sim.decide import Bounds, Plan, Request, plan
from vtrain_sim.decide.sizing.candidates import USUAL, candidates, parameters
from vtrain_sim.decide.sizing.laws import TRAINING_FLOPS, get
from vtrain_sim.decide.sizing.tokens import TokenRule
from vtrain_sim.decide.space import divisors
from vtrain_sim.errors import UserError
from vtrain_sim.progress import Progress, unwatched
from vtrain_sim.results import Document, Result, Row
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import ModelSpec, TrainSpec
from vtrain_sim.specs.checks import finite, positive

SCHEMA = "vtrain.size/1"
# MFUs between which the best plan of any candidate lies: only those candidates are planned.
_LEAST, _MOST = 0.2, 0.75
# A plan may leave a few GPUs idle where they do not divide.
_USED = 0.9


@dataclass(frozen=True)
class Candidate:
    """One model with its best plan. naive_days: what it would take at the devices' peak.

    loss: nats per token by the law; None where it says none. serving_flops, serving_usd: of the tokens that it serves
    over its life (0: none; None: not known at which MFU or price).
    """

    model: ModelSpec
    parameters: float
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

    def to_dict(self) -> Document:
        """The candidate in the machine-readable result."""
        return {
            "num_layers": self.model.num_layers,
            "hidden_size": self.model.hidden_size,
            "num_attention_heads": self.model.num_attention_heads,
            "parameters": self.parameters,
            "tokens": self.tokens,
            "loss": self.loss,
            "naive_days": self.naive_days,
            "days": self.plan.days if self.plan else None,
            "cost_usd": self.plan.cost_usd if self.plan else None,
            "serving_flops": self.serving_flops,
            "serving_usd": self.serving_usd,
            "mfu": self.plan.projection.mfu if self.plan else None,
            "plan": self.plan.to_dict() if self.plan else None,
        }


@dataclass(frozen=True, repr=False)
class SizeResult(Result):
    """Model sizes for a budget of num_gpus and days.

    naive_parameters: what the budget would pay for at an MFU of 100%. naive: the candidate next to that, as
    it would really train. chosen: the largest candidate that trains in time.

    >>> import vtrain as vt
    >>> result = vt.size(cluster="dgx-a100-80gb", num_gpus=16, days=10, global_batch_size=256)
    >>> result.chosen.days <= 10 and result.chosen.parameters < result.naive_parameters
    True
    """

    cluster: str
    num_gpus: int
    days: float
    rule: TokenRule
    naive_parameters: float
    naive: Candidate
    candidates: tuple[Candidate, ...]
    chosen: Candidate

    def to_dict(self) -> Document:
        """The machine-readable result, schema vtrain.size/1."""
        return {
            "schema": SCHEMA,
            "cluster": self.cluster,
            "num_gpus": self.num_gpus,
            "days": self.days,
            "law": self.rule.law.name,
            "law_source": self.rule.law.source,
            "law_equation": self.rule.law.equation,
            "tokens_source": self.rule.source,
            "tokens_per_parameter": self.rule.tokens_per_parameter or None,
            "inference_tokens": self.rule.served or None,
            "inference_mfu": self.rule.inference_mfu or None,
            "naive_parameters": self.naive_parameters,
            "naive_tokens": self.rule.tokens(self.naive_parameters),
            "naive_model": self.naive.to_dict(),
            "candidates": [c.to_dict() for c in self.candidates],
            "chosen": self.chosen.to_dict(),
        }

    def summary(self) -> dict[str, object]:
        """The budget and the model that was chosen."""
        chosen = self.rows()[self.candidates.index(self.chosen)]
        return {
            "cluster": self.cluster,
            "num_gpus": self.num_gpus,
            "law": self.rule.law.name,
            **{name: chosen[name] for name in ("num_layers", "hidden_size", "parameters", "tokens", "days", "mfu")},
        }

    def rows(self) -> list[Row]:
        """One row per candidate, smallest first."""
        return [{name: value for name, value in c.to_dict().items() if name != "plan"} for c in self.candidates]


def size(
    projector: Projector,
    num_gpus: int,
    days: float,
    batches: tuple[int, ...],
    rule: TokenRule | None = None,
    like: ModelSpec = USUAL,
    base: TrainSpec | None = None,
    bounds: Bounds | None = None,
    progress: Progress = unwatched,
) -> SizeResult:
    """The largest compute-optimal model that trains on so many GPUs in so many days.

    rule: the tokens of a size (by default 20 for each parameter). like: the model whose sequence length and vocabulary candidates have.
    Raises `UserError` where even the smallest candidate does not, with what would help.
    """
    positive("--num-gpus", num_gpus)
    finite("--days", days, 1e-6)
    rule = rule or TokenRule(get("chinchilla-20"))
    budget = _Budget(projector, num_gpus, days, batches, rule, base or TrainSpec(1, 1), bounds)
    naive_parameters = rule.largest_parameters(budget.flops)
    models = candidates(
        like,
        rule.largest_parameters(_LEAST * budget.flops),
        rule.largest_parameters(_MOST * budget.flops),
    )
    nearest_naive = candidates(like, 0.0, naive_parameters)
    if not models or not nearest_naive:
        raise UserError(
            f"{num_gpus} GPUs in {days:g} days pay for a model of at most {naive_parameters / 1e9:.3g} billion "
            "parameters, for which no published model gives proportions (0.3 to 2,000 billion): change --num-gpus or "
            "--days"
        )
    planned: list[Candidate] = []
    for model in models:
        planned.append(budget.plan(model))
        progress(len(planned), sum(c.days <= days for c in planned), len(planned) / len(models))
    if all(c.plan is None for c in planned):
        budget.check(models[0])
    chosen = _largest_in_time(planned, days)
    naive = next((c for c in planned if c.model == nearest_naive[-1]), None) or budget.plan(nearest_naive[-1])
    cluster = projector.cluster.name
    return SizeResult(cluster, num_gpus, days, rule, naive_parameters, naive, tuple(planned), chosen)


def _largest_in_time(planned: Sequence[Candidate], days: float) -> Candidate:
    """The largest candidate that trains in time. Raises `UserError` where none does."""
    fitting = [c for c in planned if c.days <= days]
    if fitting:
        return max(fitting, key=lambda c: c.parameters)
    fastest = min(planned, key=lambda c: c.days)
    raise UserError(
        f"no candidate trains in {days:g} days: {fastest.model.name} ({fastest.parameters / 1e9:.3g} billion "
        f"parameters) would take {fastest.days:.1f}; more GPUs, more days or another --global-batch-size would help"
    )


@dataclass(frozen=True)
class _Budget:
    """GPUs and days, and how a model is planned on them."""

    projector: Projector
    num_gpus: int
    days: float
    batches: tuple[int, ...]
    rule: TokenRule
    base: TrainSpec
    bounds: Bounds | None

    @property
    def flops(self) -> float:
        """FLOPs of the whole budget at the devices' peak."""
        return self.num_gpus * self.peak * self.days * 86400

    @property
    def peak(self) -> float:
        """FLOPs per second of one device, of matrix products in the precision of the training."""
        return self.projector.cluster.device.peak(self.base.precision.product_dtype)

    def plan(self, model: ModelSpec) -> Candidate:
        """A model with its tokens and its best plan."""
        count = parameters(model)
        tokens = self.rule.tokens(count)
        best = self._best(model, tokens)
        if best is not None and self.rule.inference_mfu:
            # Which plan is best does not depend on the tokens; what serving weighs depends on the plan's MFU.
            weighed = self.rule.tokens(count, best.projection.mfu)
            share, tokens = weighed / tokens, weighed
            best = replace(best, days=best.days * share, cost_usd=best.cost_usd * share)
        naive_days = TRAINING_FLOPS * count * tokens / self.flops * self.days
        serving = self.rule.serving_flops(count)
        loss = self.rule.loss(count, tokens)
        return Candidate(model, count, tokens, naive_days, best, loss, serving, self._serving_usd(serving))

    def _serving_usd(self, flops: float) -> float | None:
        """Dollars of serving at the price of the cluster; None where no MFU or no price is given."""
        price = self.projector.cluster.price_per_gpu_hour
        if not flops or not self.rule.inference_mfu or not price:
            return None
        return flops / (self.peak * self.rule.inference_mfu) / 3600 * price

    def check(self, model: ModelSpec) -> None:
        """Raise `UserError` with the reason where a model has no plan."""
        self._plan(model, self.rule.tokens(parameters(model)))

    def _best(self, model: ModelSpec, tokens: float) -> Plan | None:
        """The fastest plan on nearly all of the GPUs; None where nothing fits."""
        try:
            return self._plan(model, tokens)
        except UserError:
            return None

    def _plan(self, model: ModelSpec, tokens: float) -> Plan | None:
        bounds = self.bounds or Bounds(recompute=("none", "full"))
        counts = self._gpu_counts(model, bounds)
        if not counts:
            return None
        request = Request(model, self.batches, tokens, num_gpus=counts, bounds=bounds, base=self.base)
        return plan(request, self.projector, top=1).plans[0]

    def _gpu_counts(self, model: ModelSpec, bounds: Bounds) -> tuple[int, ...]:
        """Numbers of GPUs that layouts of the model fill, of nearly all there are."""
        counts = {
            tp * pp * dp
            # Tensor parallelism over a node is what large models need; smaller sizes are searched where they fit.
            for tp in (1, 2, 4, 8)
            if tp <= bounds.max_tp
            for pp in divisors(model.num_layers)
            if pp <= bounds.max_pp
            for batch in self.batches
            for dp in divisors(batch)
            if dp <= bounds.max_dp
            if _USED * self.num_gpus <= tp * pp * dp <= self.num_gpus
        }
        return tuple(sorted(counts))
