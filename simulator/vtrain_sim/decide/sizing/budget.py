"""GPUs and days, and how a model is planned on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from vtrain_sim.decide import Bounds, Failures, Plan, Request, plan
from vtrain_sim.decide.search.cuts import divisors
from vtrain_sim.decide.sizing.laws import TRAINING_FLOPS
from vtrain_sim.decide.sizing.result import Candidate
from vtrain_sim.decide.sizing.tokens import TokenRule
from vtrain_sim.errors import UserError
from vtrain_sim.model.step import active_parameters_of, parameters_of
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import ModelSpec, TrainSpec

# What is searched for each of many sizes: modules that run again and large micro batches seldom make a size possible.
SIZED = Bounds(recompute=("none", "full"), max_cp=1, micro_batches=(1, 2, 4, 8))
# A plan may leave a few GPUs idle where they do not divide.
_USED = 0.9


@dataclass(frozen=True)
class Budget:
    """GPUs and days, what is trained on them, and how its plans are searched."""

    projector: Projector
    num_gpus: int
    days: float
    batches: tuple[int, ...]
    rule: TokenRule
    base: TrainSpec
    bounds: Bounds
    failures: Failures | None

    @property
    def flops(self) -> float:
        """FLOPs of the whole budget at the devices' peak."""
        return self.num_gpus * self.peak * self.days * 86400

    @property
    def peak(self) -> float:
        """FLOPs per second of one device, of matrix products in the precision of the training."""
        return self.projector.cluster.device.peak(self.base.precision.product_dtype)

    def naive_days(self, model: ModelSpec) -> float:
        """Days of a model's training at the devices' peak."""
        return self.rule.training_flops(active_parameters_of(model)) / self.flops * self.days

    def plan(self, model: ModelSpec) -> Candidate:
        """A model with its tokens and its best plan."""
        active = float(active_parameters_of(model))
        tokens = self.rule.tokens(active)
        best = self._best(model, tokens)
        if best is not None and self.rule.inference_mfu:
            # Which plan is best does not depend on the tokens; what serving weighs depends on the plan's MFU.
            weighed = self.rule.tokens(active, best.projection.mfu)
            share, tokens = weighed / tokens, weighed
            best = replace(best, days=best.days * share, cost_usd=best.cost_usd * share)
        serving = self.rule.serving_flops(active)
        return Candidate(
            model,
            self.num_gpus,
            float(parameters_of(model)),
            active,
            tokens,
            TRAINING_FLOPS * active * tokens / self.flops * self.days,
            best,
            self.rule.loss(active, tokens),
            serving,
            self._serving_usd(serving),
        )

    def _serving_usd(self, flops: float) -> float | None:
        """Dollars of serving at the price of the cluster; None where no MFU or no price is given."""
        price = self.projector.cluster.price_per_gpu_hour
        if not flops or not self.rule.inference_mfu or not price:
            return None
        return flops / (self.peak * self.rule.inference_mfu) / 3600 * price

    def check(self, model: ModelSpec) -> None:
        """Raise `UserError` with the reason where a model has no plan."""
        self._plan(model, self.rule.tokens(active_parameters_of(model)))

    def _best(self, model: ModelSpec, tokens: float) -> Plan | None:
        """The fastest plan on nearly all of the GPUs; None where nothing fits."""
        try:
            return self._plan(model, tokens)
        except UserError:
            return None

    def _plan(self, model: ModelSpec, tokens: float) -> Plan:
        request = Request(
            model,
            self.batches,
            tokens,
            num_gpus=self._gpu_counts(model),
            bounds=self.bounds,
            base=self.base,
            failures=self.failures,
        )
        return plan(request, self.projector, top=1).plans[0]

    def _gpu_counts(self, model: ModelSpec) -> tuple[int, ...]:
        """Numbers of GPUs that layouts of the model fill: nearly all, or the most that any layout fills."""
        counts = sorted(set(self._filled(model)))
        nearly_all = tuple(n for n in counts if n >= _USED * self.num_gpus)
        return nearly_all or (counts[-1] if counts else self.num_gpus,)

    def _filled(self, model: ModelSpec) -> Iterator[int]:
        context = [cp for cp in (1, 2, 4, 8, 16, 32) if cp <= self.bounds.max_cp]
        copies = {dp for batch in self.batches for dp in divisors(batch) if dp <= self.bounds.max_dp}
        # Tensor parallelism over a node is what large models need; smaller sizes are searched where they fit.
        for tp in (1, 2, 4, 8):
            for pp in divisors(model.num_layers):
                if tp > self.bounds.max_tp or pp > self.bounds.max_pp:
                    continue
                for cp in context:
                    yield from (tp * pp * cp * dp for dp in copies if tp * pp * cp * dp <= self.num_gpus)
