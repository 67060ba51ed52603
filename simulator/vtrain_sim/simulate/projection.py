"""One projection: specs -> operators -> costs -> schedule -> replay -> result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from vtrain_sim.costs import CollectiveCosts, OperatorCosts
from vtrain_sim.costs.surfaces import DeviceSurface, Surfaces
from vtrain_sim.model.once import by_group, gather, reduction
from vtrain_sim.model.program import Communication
from vtrain_sim.simulate.batch import Evaluation, Evaluator, slowest_of
from vtrain_sim.simulate.breakdown import STRAGGLERS, Tally, category_of, tally_stage
from vtrain_sim.simulate.memory import MemoryVerdict, StageMemory
from vtrain_sim.simulate.remedy import nearest_fit
from vtrain_sim.simulate.result import Projection
from vtrain_sim.specs import ClusterSpec, Configuration
from vtrain_sim.specs.groups import Group
from vtrain_sim.specs.replicas import ReplicaSpec

# Half the width of the band of `BAND_PROBABILITY`, in standard deviations.
_BAND_SIGMAS = 1.645
# What no operator's own band covers: interference, order, clocks. A profile whose own steps differ by
# more says so.
LEAST_STEP_SIGMA = 0.02
WAITING = "pipeline bubble and transfers"


class Projector:
    """Projects configurations on one cluster; operators are estimated once and shared.

    step_sigma: how much whole steps vary, standard deviation of the logarithm.
    """

    def __init__(
        self,
        cluster: ClusterSpec,
        operators: OperatorCosts,
        collectives: CollectiveCosts,
        step_sigma: float = 0.0,
    ) -> None:
        self.cluster = cluster
        self.step_sigma = max(step_sigma, operators.surface.surfaces.step_sigma, LEAST_STEP_SIGMA)
        self.evaluator = Evaluator(cluster, operators, collectives)

    @classmethod
    def modelled(cls, cluster: ClusterSpec, surfaces: Surfaces) -> Projector:
        """A projector with a device's coefficients alone: nothing was measured by the user."""
        return cls(cluster, OperatorCosts(DeviceSurface(cluster.device, surfaces)), CollectiveCosts(cluster))

    def evaluate(self, configurations: Sequence[Configuration]) -> Evaluation:
        """Times and memory of many configurations; raises `UserError` where a cost is not known."""
        return self.evaluator.evaluate(configurations)

    def project(self, configuration: Configuration) -> Projection:
        """Project one configuration; raises `UserError` where a cost is not known."""
        evaluation = self.evaluate([configuration])
        iteration = float(evaluation.iteration_time_s[0])
        critical = int(evaluation.critical_stage[0])
        total = self._tally(configuration, critical, evaluation)
        breakdown = {k: v for k, v in total.category.items() if v > 0}
        slow = self._slowest(configuration)
        if slow > 1:
            breakdown[STRAGGLERS] = iteration * (1 - 1 / slow)
        waiting = max(0.0, iteration - sum(breakdown.values()))
        if waiting > 0:
            breakdown[WAITING] = waiting
        errors = _errors(total, iteration - total.seconds, iteration)
        sigma = math.sqrt(sum(error**2 for error in errors.values()) + self.step_sigma**2)
        return Projection(
            configuration,
            self.cluster,
            iteration,
            iteration * math.exp(-_BAND_SIGMAS * sigma),
            iteration * math.exp(_BAND_SIGMAS * sigma),
            critical,
            breakdown,
            _shares(total),
            self._verdict(configuration, evaluation),
            float(evaluation.model_flops[0]),
            float(evaluation.hardware_flops[0]),
            errors=errors,
            step_sigma=self.step_sigma,
        )

    def stage_tally(self, configuration: Configuration, stage: int) -> Tally:
        """Everything that one stage does in a step by category, what its replicas' exchange adds included."""
        return self._tally(configuration, stage, self.evaluate([configuration]))

    def _tally(self, configuration: Configuration, stage: int, evaluation: Evaluation) -> Tally:
        evaluator = self.evaluator
        layouts, layout = evaluator.layouts(configuration), evaluator.layout(configuration)
        total = tally_stage(layouts, layout, stage, configuration.replicas, configuration.num_microbatches)
        self._add_exchange(total, configuration, stage, float(evaluation.exposed_s[stage]), reduction)
        if configuration.replicas.overlap_param_gather:
            free = evaluator.evaluate([configuration], without_gathers=True)
            late = float(evaluation.iteration_time_s[0] - free.iteration_time_s[0]) / self._slowest(configuration)
            self._add_exchange(total, configuration, stage, late, gather)
        return total

    def _slowest(self, configuration: Configuration) -> float:
        return float(slowest_of(np.array([configuration.parallel.world_size]), self.cluster)[0])

    def _add_exchange(
        self,
        total: Tally,
        configuration: Configuration,
        stage: int,
        exposed_s: float,
        exchange: Callable[[Group, int, ReplicaSpec], Communication],
    ) -> None:
        """Add what shows of an exchange between replicas: each of its groups has its part."""
        layouts, layout = self.evaluator.layouts(configuration), self.evaluator.layout(configuration)
        holding, replicas = layout.holding(stage), configuration.replicas
        groups = by_group(holding.parameters, holding.expert_parameters, replicas)
        communications = [exchange(group, count, replicas) for group, count in groups]
        estimates = [layouts.costs.communication(c) for c in communications]
        whole = sum(estimate.seconds for estimate in estimates)
        for communication, estimate in zip(communications, estimates, strict=True):
            share = estimate.seconds / whole if whole else 0.0
            total.add(category_of(communication), communication.op, estimate, exposed_s * share)

    def _verdict(self, configuration: Configuration, evaluation: Evaluation) -> MemoryVerdict:
        terms = evaluation.stage_memory
        stages = tuple(
            StageMemory(stage, **{f"{name}_bytes": round(float(values[stage])) for name, values in terms.items()})
            for stage in range(configuration.parallel.pp)
        )
        fits, capacity = bool(evaluation.fits[0]), self.cluster.device.memory_bytes
        remedy = "" if fits else nearest_fit(configuration, self.evaluator)
        return MemoryVerdict(fits, capacity, stages, remedy, bool(evaluation.tight[0]))


def _errors(total: Tally, waiting_s: float, iteration_s: float) -> dict[str, float]:
    """Share of a step by which it may be wrong for each source of error, one standard deviation."""
    # The bubble is made of the same operators: it carries the same relative error.
    grow = 1.0 + waiting_s / max(total.seconds, 1e-30)
    return {source: grow * error / iteration_s for source, error in total.error.items()}


def _shares(total: Tally) -> dict[str, float]:
    whole = sum(total.provenance.values()) or 1.0
    return {key: total.provenance.get(key, 0.0) / whole for key in ("measured", "interpolated", "modelled")}
