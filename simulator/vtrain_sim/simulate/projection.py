"""One projection: specs -> operators -> costs -> schedule -> replay -> result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vtrain_sim.costs import CollectiveCosts, OperatorCosts
from vtrain_sim.costs.surfaces import DeviceSurface, Surfaces
from vtrain_sim.simulate.estimates import Estimator, Tally, expose
from vtrain_sim.simulate.evaluation import Evaluation, Evaluator, slowest_of
from vtrain_sim.simulate.memory import MemoryVerdict, StageMemory
from vtrain_sim.simulate.remedy import nearest_fit
from vtrain_sim.specs import ClusterSpec, Configuration, TrainSpec

SCHEMA = "vtrain.projection/1"
# The band holds the true time with this probability, if errors are normal in the logarithm.
BAND_PROBABILITY = 0.9
_BAND_SIGMAS = 1.645
# What no operator's own band covers: interference, order, clocks. A profile whose own steps differ by
# more says so.
LEAST_STEP_SIGMA = 0.02
WAITING = "pipeline bubble and transfers"
STRAGGLERS = "waiting for the slowest node"


def days_to_train(steps: Any, iteration_time_s: Any) -> Any:
    """Days of so many steps. Like the two below, takes numbers or arrays."""
    return steps * iteration_time_s / 86400


def dollars(days: Any, gpus: Any, cluster: ClusterSpec) -> Any:
    """US dollars for so many GPUs at the cluster's price per GPU-hour."""
    return days * 24 * gpus * cluster.price_per_gpu_hour


def utilisation(flops: Any, gpus: Any, cluster: ClusterSpec, train: TrainSpec, iteration_time_s: Any) -> Any:
    """FLOPs of a step per second over the peak of the devices in the parameters' type."""
    return flops / (gpus * cluster.device.peak(train.params_dtype) * iteration_time_s)


@dataclass(frozen=True)
class Projection:
    """What a configuration would do. Times in seconds, sizes in bytes."""

    configuration: Configuration
    cluster: ClusterSpec
    iteration_time_s: float
    iteration_time_low_s: float
    iteration_time_high_s: float
    critical_stage: int
    breakdown_s: dict[str, float]
    provenance: dict[str, float]
    memory: MemoryVerdict
    model_flops: float
    hardware_flops: float

    @property
    def mfu(self) -> float:
        """Model FLOPs (no recomputation) per second over the devices' peak (PaLM, appendix B)."""
        return self._utilisation(self.model_flops)

    @property
    def hfu(self) -> float:
        """Executed FLOPs (recomputation included) per second over the devices' peak."""
        return self._utilisation(self.hardware_flops)

    def _utilisation(self, flops: float) -> float:
        ranks = self.configuration.parallel.world_size
        return float(utilisation(flops, ranks, self.cluster, self.configuration.train, self.iteration_time_s))

    @property
    def tokens_per_s_per_gpu(self) -> float:
        """Training tokens per second and device."""
        configuration = self.configuration
        return configuration.tokens_per_step / self.iteration_time_s / configuration.parallel.world_size

    def days(self, tokens: float) -> float:
        """Days to train on `tokens` tokens without interruption."""
        return float(days_to_train(tokens / self.configuration.tokens_per_step, self.iteration_time_s))

    def cost_usd(self, tokens: float) -> float:
        """Dollars for `tokens` tokens at the cluster's price per GPU-hour."""
        return float(dollars(self.days(tokens), self.configuration.parallel.world_size, self.cluster))

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable result, schema vtrain.projection/1."""
        parallel, train = self.configuration.parallel, self.configuration.train
        return {
            "schema": SCHEMA,
            "cluster": self.cluster.name,
            "device": self.cluster.device.name,
            "modelled_only": self.cluster.device.modelled_only,
            "num_gpus": parallel.world_size,
            "parallel": {
                "tp": parallel.tp,
                "pp": parallel.pp,
                "vpp": parallel.vpp,
                "cp": parallel.cp,
                "ep": parallel.ep,
                "etp": parallel.etp,
                "dp": parallel.dp,
                "fsdp": parallel.fsdp,
                "stage_layers": list(self.configuration.stage_layers),
                "sequence_parallel": parallel.sequence_parallel,
                "distributed_optimizer": parallel.distributed_optimizer,
            },
            "micro_batch_size": train.micro_batch_size,
            "global_batch_size": train.global_batch_size,
            "schedule": self.configuration.schedule,
            "iteration_time_s": self.iteration_time_s,
            "iteration_time_low_s": self.iteration_time_low_s,
            "iteration_time_high_s": self.iteration_time_high_s,
            "band_probability": BAND_PROBABILITY,
            "critical_stage": self.critical_stage,
            "breakdown_s": self.breakdown_s,
            "provenance": self.provenance,
            "memory": {
                "fits": self.memory.fits,
                "capacity_bytes": self.memory.capacity_bytes,
                "remedy": self.memory.remedy,
                "stages": [
                    {"stage": s.stage, "peak_bytes": s.peak_bytes, **{f"{k}_bytes": v for k, v in s.terms().items()}}
                    for s in self.memory.stages
                ],
            },
            "mfu": self.mfu,
            "hfu": self.hfu,
            "tokens_per_s_per_gpu": self.tokens_per_s_per_gpu,
        }


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
        self.evaluator = Evaluator(Estimator(cluster, operators, collectives))

    @classmethod
    def modelled(cls, cluster: ClusterSpec, surfaces: Surfaces) -> Projector:
        """A projector with a device's coefficients alone: nothing was measured by the user."""
        return cls(cluster, OperatorCosts(DeviceSurface(cluster.device, surfaces)), CollectiveCosts(cluster))

    def evaluate(self, configurations: Sequence[Configuration]) -> Evaluation:
        """Times and memory of many configurations; raises `UserError` where a cost is not known."""
        return self.evaluator.evaluate(configurations)

    def project(self, configuration: Configuration) -> Projection:
        """Project one configuration; raises `UserError` where a cost is not known."""
        found = self.evaluate([configuration])
        iteration = float(found.iteration_time_s[0])
        critical = int(found.critical_stage[0])
        total = self.stage_tally(configuration, critical)
        breakdown = {k: v for k, v in total.category.items() if v > 0}
        slow = float(slowest_of(np.array([configuration.parallel.world_size]), self.cluster)[0])
        if slow > 1:
            breakdown[STRAGGLERS] = iteration * (1 - 1 / slow)
        waiting = max(0.0, iteration - sum(breakdown.values()))
        if waiting > 0:
            breakdown[WAITING] = waiting
        sigma = self._sigma(total, iteration - total.seconds, iteration)
        return Projection(
            configuration,
            self.cluster,
            iteration,
            iteration * math.exp(-_BAND_SIGMAS * sigma),
            iteration * math.exp(_BAND_SIGMAS * sigma),
            critical,
            breakdown,
            _shares(total),
            self._verdict(configuration, found),
            float(found.model_flops[0]),
            float(found.hardware_flops[0]),
        )

    def stage_tally(self, configuration: Configuration, stage: int) -> Tally:
        """Everything that one stage does in a step, by category."""
        evaluator = self.evaluator
        parts, layout = evaluator.parts(configuration), evaluator.layout(configuration)
        pp, vpp = configuration.parallel.pp, configuration.parallel.vpp
        held = [(parts.microbatch, vpp)]
        held += [(parts.embedding, 1)] * (stage == 0) + [(parts.head, 1)] * (stage == pp - 1)
        counts = layout.counts[:, stage::pp].sum(axis=1).tolist()
        held += [(p, n) for p, n in zip(parts.layers, counts, strict=True) if p is not None and n]
        forward, backward = Tally(), Tally()
        for program, count in held:
            forward.merge(program.forward, count)
            backward.merge(program.backward, count)
            backward.merge(program.weight, count)
        total = Tally()
        total.merge(forward, configuration.num_microbatches)
        total.merge(backward, configuration.num_microbatches)
        once = evaluator.once(configuration, stage)
        for tally in (once.before, once.sync, once.update):
            total.merge(tally)
        expose(total, once.sync_hideable, backward.seconds, self.cluster)
        expose(total, once.update_hideable, forward.seconds, self.cluster)
        return total

    def _verdict(self, configuration: Configuration, found: Evaluation) -> MemoryVerdict:
        stages = tuple(
            StageMemory(s, *(round(v) for v in found.stage_memory[:, s])) for s in range(found.stage_memory.shape[1])
        )
        fits = bool(found.fits[0])
        capacity = self.cluster.device.memory_bytes
        return MemoryVerdict(fits, capacity, stages, "" if fits else nearest_fit(configuration, self.evaluator))

    def _sigma(self, total: Tally, waiting_s: float, iteration_s: float) -> float:
        # The bubble is made of the same operators: it carries the same relative error.
        grow = 1.0 + waiting_s / max(total.seconds, 1e-30)
        variance = sum((grow * e / iteration_s) ** 2 for e in total.error.values())
        return math.sqrt(variance + self.step_sigma**2)


def _shares(total: Tally) -> dict[str, float]:
    whole = sum(total.provenance.values()) or 1.0
    return {key: total.provenance.get(key, 0.0) / whole for key in ("measured", "interpolated", "modelled")}
