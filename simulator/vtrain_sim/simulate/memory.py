"""How much memory each pipeline stage needs.

Activations are the sum of what the operators of a layer save for their backward pass (`Compute.saves`), as
Korthikanti et al. 2022 (arXiv:2205.05198, equations 1-6) count them; parameters are those of the operators.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from vtrain_schemas.operators import dtype_bytes
from vtrain_sim.model import Parts
from vtrain_sim.model.context_parallel import gathered_bytes
from vtrain_sim.model.layers import logits_bytes as logits_of
from vtrain_sim.model.muon import step_bytes
from vtrain_sim.model.once import Holding
from vtrain_sim.specs import ClusterSpec, TrainSpec
from vtrain_sim.specs.optimizer import OptimizerTypes
from vtrain_sim.specs.precision import Precision
from vtrain_sim.specs.replicas import ReplicaSpec
from vtrain_sim.specs.shard import ChunkSpec

# CUDA context, cuBLAS workspaces and the buffers of NCCL's communicators in one process, bytes.
RUNTIME_BYTES = 7 << 29
# A process without a GPU: the interpreter and its libraries.
HOST_RUNTIME_BYTES = 400 << 20
# Memory that the caching allocator holds but cannot use, as part of the activations. Both are what nvidia-smi showed
# while BLOOM was tuned (BigScience, chronicles-prequel.md) beyond what tensors need: on one stage without data
# parallelism, where few activations are kept, and on pipelines.
FRAGMENTATION = 0.3
# The same with segments that grow: what is freed is mapped elsewhere, in pages of 2 MiB ("Memory management", PyTorch's
# notes on CUDA semantics; "Memory tuning" in the documentation of Megatron-Bridge, whose launch templates ask for it).
EXPANDABLE_FRAGMENTATION = 0.0
# DeepSpeed flattens so many gradients at a time for their reduction (its reduce_bucket_size, if not given).
DEEPSPEED_BUCKET = 500_000_000
# What a device must have more than is projected for a configuration to be called one that fits. Of the 87 peaks of the
# validation tables (BLOOM, Zero Bubble) nine in ten are at most 5.4% larger than projected, and the driver keeps some
# of a device for itself (nvidia-smi shows 81,251 of 81,920 MiB of an A100).
MARGIN = 0.06
# Terms that do not depend on the schedule, and all of them.
HELD_TERMS = ("parameters", "gradients", "optimizer", "working", "logits")
TERMS = ("parameters", "gradients", "optimizer", "activations", "working", "logits", "runtime")


@dataclass(frozen=True)
class StageMemory:
    """Bytes of one rank of a stage, by term.

    activations: kept for the backward pass, of all microbatches in flight. working: alive only while
    something runs: a layer being recomputed, gathered parameters, communication buffers. logits: the
    output's and the loss's. runtime: context, libraries, and what the allocator cannot use.
    """

    stage: int
    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    working_bytes: int
    logits_bytes: int
    runtime_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Sum of the terms."""
        return sum(self.terms().values())

    @property
    def allocated_bytes(self) -> int:
        """What tensors need: ``torch.cuda.max_memory_allocated``."""
        return self.peak_bytes - self.runtime_bytes

    def terms(self) -> dict[str, int]:
        """The terms by name."""
        return {name: getattr(self, f"{name}_bytes") for name in TERMS}


@dataclass(frozen=True)
class MemoryVerdict:
    """Whether the configuration fits, and what decides. remedy: the nearest change that fits, in words.

    fits: with `MARGIN` to spare. tight: it does not, but tensors and runtime alone are no more than the device has. It
    may run: projections are too large as often as too small, and the allocator gives back what it caches before it
    fails (with expandable segments it caches nothing that it cannot use).
    """

    fits: bool
    capacity_bytes: int
    stages: tuple[StageMemory, ...]
    remedy: str = ""
    tight: bool = False

    @property
    def worst(self) -> StageMemory:
        """The stage that needs most."""
        return max(self.stages, key=lambda s: s.peak_bytes)

    def sentence(self) -> str:
        """The verdict in words."""
        worst, gib = self.worst, 1 << 30
        term, size = max(worst.terms().items(), key=lambda t: t[1])
        return (
            f"{self.state}: stage {worst.stage} needs {worst.peak_bytes / gib:.1f} of "
            f"{self.capacity_bytes / gib:.1f} GiB, most of it {term} ({size / gib:.1f} GiB)"
            + (f"; {self.remedy}" if self.remedy else "")
        )

    @property
    def state(self) -> str:
        """Whether it fits, in a few words."""
        if self.fits:
            return "fits"
        if not self.tight:
            return "does not fit"
        if self.worst.peak_bytes > self.capacity_bytes:
            return "tight, does not fit with what the allocator caches, may with expandable segments"
        return f"tight, with less than {MARGIN:.0%} to spare"

    @property
    def margin_bytes(self) -> int:
        """What the device has beyond the peak of the worst stage; negative where that is more than it has."""
        return self.capacity_bytes - self.worst.peak_bytes


def fragmentation(train: TrainSpec) -> float:
    """Memory that the allocator holds but cannot use, as part of the activations."""
    return EXPANDABLE_FRAGMENTATION if train.expandable_segments else FRAGMENTATION


def working_bytes(parts: Parts) -> int:
    """Bytes that are alive only while something runs, of one microbatch on one rank."""
    shard = parts.shard
    # Around each sharded block the whole sequence and its gradient are alive.
    return gathered_bytes(shard) + (2 * shard.hidden_bytes if shard.spec.sequence_parallel else 0)


def recomputed_bytes(parts: Parts, chunk: ChunkSpec) -> int:
    """Bytes that the largest of the layers that run again, or of the rows of them that do so together, saves; or
    the largest of the modules of layers that run again."""
    largest = together = 0
    for kind, count in chunk.layers:
        if kind.offloaded:
            # One layer's activations are under way while the next one's are made.
            largest = max(largest, 2 * parts.layer(kind).saved_bytes)
        elif kind.recomputed:
            saved = parts.layer(kind).saved_bytes
            together = saved if kind.keeps_input else together + count * saved
            largest = max(largest, together)
        else:
            # Of the modules that are offloaded too.
            layer = parts.layer(kind)
            largest = max(largest, parts.again_bytes(kind) + 2 * (layer.saved_bytes - layer.kept_bytes))
    return largest


def gathered_parameters(parts: Parts, chunk: ChunkSpec) -> int:
    """Parameters of the two programs in a row that have most: the one that runs, and the one that is fetched."""
    runs = parts.runs(chunk)
    one_by_one = [p.used_parameters for p, count in runs for _ in range(min(count, 2)) if p.used_parameters]
    pairs = (a + b for a, b in zip([0, *one_by_one], one_by_one, strict=False))
    return max(pairs, default=0)


def logits_bytes(parts: Parts) -> int:
    """Bytes of the logits of one microbatch and of their loss."""
    return logits_of(parts.shard)


def runtime_bytes(cluster: ClusterSpec) -> int:
    """Bytes of a process without tensors."""
    return RUNTIME_BYTES if cluster.backend == "nccl" else HOST_RUNTIME_BYTES


def _even_share(replicas: ReplicaSpec, holding: Holding) -> int:
    """Parameters of matrices on one rank if all data parallel ranks had as many."""
    if not replicas.sharded:
        return sum(matrix.size * count for matrix, count in holding.matrices)
    return sum(
        matrix.size * count // (replicas.expert_dp.size if matrix.expert else replicas.dp.size)
        for matrix, count in holding.matrices
    )


class ParameterTerms(NamedTuple):
    """Bytes of what a stage holds. working: buffers that are there during the passes; step: during the update alone."""

    parameters: int
    gradients: int
    optimizer: int
    working: int
    step: int


class PerParameter(NamedTuple):
    """Bytes of one parameter. held: on every rank that has it; owned: on the one that updates it."""

    held: float
    owned: float


def least_per_parameter(
    precision: Precision, optimizer: OptimizerTypes, gradients: str, fully_sharded: bool
) -> PerParameter:
    """Bytes of a parameter's weight, gradient and optimizer state that are there in any case: Muon's matrices have no
    second moment. What `parameter_terms` counts is at least this much for each. gradients: type of their buffers."""
    on_every_rank = dtype_bytes(precision.params_dtype) + optimizer.gradient_bytes(precision, gradients)
    state = optimizer.bytes_per_parameter(precision)
    if optimizer.muon is not None:
        state -= dtype_bytes(optimizer.exp_avg_sq)
    owned = (1 - optimizer.on_host) * state
    return PerParameter(0.0, on_every_rank + owned) if fully_sharded else PerParameter(on_every_rank, owned)


def parameter_terms(replicas: ReplicaSpec, holding: Holding, gathered: int) -> ParameterTerms:
    """Bytes of weights, gradients, optimizer states and buffers of what a stage holds.

    Adam keeps two moments, and a copy of parameters that are stored in less (`OptimizerTypes`).
    gathered: parameters that are whole at once where they are fully sharded.
    """
    precision, optimizer, owned = replicas.precision, replicas.optimizer, holding.owned(replicas)
    weight = dtype_bytes(precision.params_dtype)
    gradient = optimizer.gradient_bytes(precision, replicas.main_grads_dtype)
    state = round(owned * (1 - optimizer.on_host)) * optimizer.bytes_per_parameter(precision)
    step = owned * optimizer.step_bytes_per_parameter(precision, replicas.main_grads_dtype)
    if optimizer.muon is not None:
        matrices = holding.own_matrices(replicas)
        # Whole matrices instead of an even share of them, without a second moment. Of the ranks, some have no less than
        # that share, also where the one with most work has less.
        even = _even_share(replicas, holding)
        size = max(even, sum(matrix.size * count for matrix, count in matrices))
        state += (size - even) * optimizer.bytes_per_parameter(precision) - size * dtype_bytes(optimizer.exp_avg_sq)
        step += step_bytes(matrices, optimizer.muon, replicas.tp.size, replicas.expert_tp.size)
    if replicas.fully_sharded:
        return ParameterTerms(owned * weight, owned * gradient, state, gathered * (weight + gradient), step)
    working = round(precision.weight_copy_bytes * holding.product_parameters)
    if optimizer.deepspeed and replicas.dp.size > 1:
        working += min(holding.total, DEEPSPEED_BUCKET) * gradient
    return ParameterTerms(holding.total * weight, holding.total * gradient, state, working, step)
