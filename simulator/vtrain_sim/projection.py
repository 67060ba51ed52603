"""One projection: specs -> operators -> costs -> schedule -> replay -> result."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vtrain_schemas.operators import Operator
from vtrain_sim.costs import MEASURED, CollectiveCosts, OperatorCosts, Price
from vtrain_sim.memory import RUNTIME_BYTES, MemoryVerdict, memory
from vtrain_sim.operators import Communication, Compute, Item, Program, StepProgram, build_step
from vtrain_sim.replay import Replay, replay
from vtrain_sim.schedules import schedule
from vtrain_sim.specs import ClusterSpec, Configuration

SCHEMA = "vtrain.projection/1"
# The band holds the true time with this probability, if errors are normal in the logarithm.
BAND_PROBABILITY = 0.9
_BAND_SIGMAS = 1.645
# Model FLOPs are those of matrix multiplications and attention (Narayanan et al., SC'21, appendix).
MATRIX_KINDS = ("gemm", "grouped_gemm", "attention", "router")
# What no operator's own band covers: interference, order, clocks. A profile whose own steps differ by
# more says so.
LEAST_STEP_SIGMA = 0.02


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
    timeline: Replay

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
        peak = self.cluster.device.peak(self.configuration.train.params_dtype)
        return flops / (ranks * peak * self.iteration_time_s)

    @property
    def tokens_per_s_per_gpu(self) -> float:
        """Training tokens per second and device."""
        configuration = self.configuration
        return configuration.tokens_per_step / self.iteration_time_s / configuration.parallel.world_size

    def days(self, tokens: float) -> float:
        """Days to train on `tokens` tokens without interruption."""
        return tokens / self.configuration.tokens_per_step * self.iteration_time_s / 86400

    def cost_usd(self, tokens: float) -> float:
        """Dollars for `tokens` tokens at the cluster's price per GPU-hour."""
        return self.days(tokens) * 24 * self.configuration.parallel.world_size * self.cluster.price_per_gpu_hour

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable result, schema vtrain.projection/1."""
        parallel, train = self.configuration.parallel, self.configuration.train
        return {
            "schema": SCHEMA,
            "cluster": self.cluster.name,
            "device": self.cluster.device.name,
            "num_gpus": parallel.world_size,
            "parallel": {
                "tp": parallel.tp, "pp": parallel.pp, "vpp": parallel.vpp, "cp": parallel.cp,
                "ep": parallel.ep, "dp": parallel.dp, "sequence_parallel": parallel.sequence_parallel,
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
                "stages": [
                    {"stage": s.stage, "peak_bytes": s.peak_bytes, **{f"{k}_bytes": v for k, v in s.terms().items()}}
                    for s in self.memory.stages
                ],
            },
            "mfu": self.mfu,
            "hfu": self.hfu,
            "tokens_per_s_per_gpu": self.tokens_per_s_per_gpu,
        }  # fmt: skip


class _Tally:
    """Time by category, by provenance and by source of error."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.category: dict[str, float] = defaultdict(float)
        self.provenance: dict[str, float] = defaultdict(float)
        # Errors of one kind of work are the same error wherever it occurs: they add up linearly.
        self.error: dict[str, float] = defaultdict(float)
        self.flops = 0.0

    def add(self, category: str, source: str, price: Price, seconds: float, count: float = 1) -> None:
        total = seconds * count
        self.seconds += total
        self.category[category] += total
        self.provenance[price.provenance] += total
        self.error[source] += total * price.sigma

    def merge(self, other: _Tally, count: float = 1) -> None:
        self.seconds += other.seconds * count
        self.flops += other.flops * count
        for mine, theirs in (
            (self.category, other.category), (self.provenance, other.provenance), (self.error, other.error)
        ):  # fmt: skip
            for key, value in theirs.items():
                mine[key] += value * count


class Projector:
    """Projects configurations on one cluster; operators are priced once and shared.

    step_sigma: how much whole steps vary, standard deviation of the logarithm.
    """

    def __init__(
        self,
        cluster: ClusterSpec,
        operators: OperatorCosts,
        collectives: CollectiveCosts,
        step_sigma: float = LEAST_STEP_SIGMA,
    ) -> None:
        self.cluster = cluster
        self.step_sigma = max(step_sigma, LEAST_STEP_SIGMA)
        self.operators = operators
        self.collectives = collectives
        self._contention = 1.0

    def project(self, configuration: Configuration) -> Projection:
        """Project one configuration; raises `UserError` where a cost is not known."""
        step = build_step(configuration)
        # Alone on its node a device is not held up by its neighbours.
        shared = min(configuration.parallel.world_size, self.cluster.gpus_per_node) > 1
        self._contention = self.cluster.contention if shared else 1.0
        parallel = configuration.parallel
        parts: dict[str, tuple[_Tally, _Tally]] = {}
        forward: list[list[_Tally]] = []
        backward: list[list[_Tally]] = []
        for stage in step.stages:
            forward.append([])
            backward.append([])
            for chunk in stage.chunks:
                f, b = _Tally(), _Tally()
                for program, count in chunk:
                    if program.name not in parts:
                        parts[program.name] = self._program(step, program)
                    f.merge(parts[program.name][0], count)
                    b.merge(parts[program.name][1], count)
                forward[-1].append(f)
                backward[-1].append(b)
        transfer = self._transfer(step)
        instructions = schedule(configuration.schedule, parallel.pp, parallel.vpp, configuration.num_microbatches)
        timeline = replay(
            instructions,
            [[t.seconds for t in row] for row in forward],
            [[t.seconds for t in row] for row in backward],
            transfer.seconds,
            keep_slots=True,
        )
        before = [self._once(step, s.before, 0.0) for s in step.stages]
        hidden = [sum(t.seconds for t in backward[s.stage]) for s in step.stages]
        sync = [self._once(step, s.sync, hidden[s.stage]) for s in step.stages]
        shown = [sum(t.seconds for t in forward[s.stage]) for s in step.stages]
        update = [self._once(step, s.update, shown[s.stage]) for s in step.stages]
        ready = [before[s].seconds + timeline.end_s[s] + sync[s].seconds for s in range(parallel.pp)]
        last = max(u.seconds for u in update)
        iteration = max(ready) + last
        critical = max(range(parallel.pp), key=lambda s: (ready[s], timeline.busy_s[s]))
        total = _Tally()
        for tally in (*forward[critical], *backward[critical]):
            total.merge(tally, configuration.num_microbatches)
        for tally in (before[critical], sync[critical], update[critical]):
            total.merge(tally)
        breakdown = dict(total.category)
        breakdown["pipeline bubble and transfers"] = max(0.0, iteration - total.seconds)
        waiting = breakdown["pipeline bubble and transfers"]
        sigma = self._sigma(total, waiting, iteration)
        flops = _model_flops(forward, backward, configuration)
        return Projection(
            configuration, self.cluster, iteration,
            iteration * math.exp(-_BAND_SIGMAS * sigma), iteration * math.exp(_BAND_SIGMAS * sigma),
            critical, {k: v for k, v in breakdown.items() if v > 0},
            _shares(total), memory(step, self.cluster.device.memory_bytes, self._runtime_bytes()),
            flops[0], flops[1], timeline,
        )  # fmt: skip

    def _runtime_bytes(self) -> int:
        return RUNTIME_BYTES if self.cluster.backend == "nccl" else 400 << 20

    # -- pricing ---------------------------------------------------------------------------

    def _price(self, operator: Operator) -> Price:
        return self.operators.price(operator).scaled(self._contention)

    def _program(self, step: StepProgram, program: Program) -> tuple[_Tally, _Tally]:
        return self._items(step, program.forward, "forward"), self._items(step, program.backward, "backward")

    def _items(self, step: StepProgram, items: Iterable[Item], direction: str) -> _Tally:
        tally = _Tally()
        items = list(items)
        durations = {i.name: self._price(i.operator).seconds for i in items if isinstance(i, Compute)}
        # Names repeat when a layer is recomputed: the backward operator comes last.
        for item in items:
            if isinstance(item, Compute):
                price = self._price(item.operator)
                category = "recompute" if item.operator.phase == "recompute" else direction
                tally.add(category, f"{item.operator.kind}/{item.operator.phase}", price, price.seconds)
                if item.operator.kind in MATRIX_KINDS:
                    tally.flops += item.operator.flops()
            else:
                cover = durations.get(item.hidden_behind, 0.0)
                if direction == "backward" and item.role == "tp":
                    # Only the weight gradient, half of a linear layer's backward, runs beside it.
                    cover *= 0.5
                self._communicate(step, item, cover, tally)
        return tally

    def _once(self, step: StepProgram, items: Iterable[Item], cover_s: float) -> _Tally:
        tally = _Tally()
        for item in items:
            if isinstance(item, Compute):
                price = self._price(item.operator)
                name = "step overhead" if item.operator.kind == "step_overhead" else "optimizer"
                tally.add(name, item.operator.kind, price, price.seconds)
            else:
                self._communicate(step, item, cover_s if item.hidden_behind else 0.0, tally)
        return tally

    def _communicate(self, step: StepProgram, item: Communication, cover_s: float, tally: _Tally) -> None:
        """Add what of a communication shows beside `cover_s` seconds of compute that could hide it."""
        nodes, sharers = placement(step.configuration, item.role, item.size, self.cluster.gpus_per_node)
        price = self.collectives.price(item.op, item.size, item.bytes, nodes, sharers)
        exposed = price.seconds - min(price.seconds, cover_s) * self.cluster.overlap_efficiency
        tally.add(f"{item.role} communication", item.op, price, exposed)

    def _transfer(self, step: StepProgram) -> Price:
        if step.configuration.parallel.pp == 1:
            return Price(0.0, 0.0, MEASURED)
        nodes, _ = placement(step.configuration, "pp", 2, self.cluster.gpus_per_node)
        return self.collectives.price("p2p", 2, step.boundary_bytes, nodes)

    def _sigma(self, total: _Tally, waiting_s: float, iteration_s: float) -> float:
        # The bubble is made of the same operators: it carries the same relative error.
        busy = max(total.seconds, 1e-30)
        grow = 1.0 + waiting_s / busy
        variance = sum((grow * e / iteration_s) ** 2 for e in total.error.values())
        return math.sqrt(variance + self.step_sigma**2)


def placement(configuration: Configuration, role: str, size: int, per_node: int) -> tuple[int, int]:
    """Nodes that a group spans, and groups of its kind that share a node, by Megatron's rank order.

    Ranks are numbered tp first, then cp, dp (ep inside it), pp last.
    """
    parallel = configuration.parallel
    stride = {
        "tp": 1, "expert_tp": 1, "cp": parallel.tp, "dp": parallel.tp, "ep": parallel.tp * parallel.cp,
        "expert_dp": parallel.tp * parallel.ep, "pp": parallel.tp * parallel.cp * parallel.dp,
        "embedding": parallel.tp * parallel.cp * parallel.dp, "mp": 1,
    }.get(role, 1)  # fmt: skip
    if role == "mp":
        return max(1, -(-parallel.world_size // per_node)) if parallel.pp > 1 else max(1, -(-size // per_node)), 1
    if role in ("pp", "embedding"):
        apart = stride if role == "pp" else stride * (parallel.pp - 1)
        return 1 if apart < per_node else 2, 1
    in_node = max(1, min(size, per_node // stride)) if stride < per_node else 1
    nodes = -(-size // in_node)
    return nodes, max(1, min(per_node, stride))


def _shares(total: _Tally) -> dict[str, float]:
    whole = sum(total.provenance.values()) or 1.0
    return {key: total.provenance.get(key, 0.0) / whole for key in ("measured", "interpolated", "modelled")}


def _model_flops(
    forward: list[list[_Tally]], backward: list[list[_Tally]], configuration: Configuration
) -> tuple[float, float]:
    """FLOPs of a whole step over the cluster: without and with recomputation."""
    parallel = configuration.parallel
    ranks = parallel.tp * parallel.cp * parallel.dp * configuration.num_microbatches
    f = sum(t.flops for row in forward for t in row) * ranks
    b = sum(t.flops for row in backward for t in row) * ranks
    # The backward pass does twice the forward's work; anything beyond that is recomputation.
    return 3 * f, f + b
