"""How much memory each pipeline stage needs.

Activations are the sum of what the operators of a layer save for their backward pass (`Compute.saves`), as
Korthikanti et al. 2022 (arXiv:2205.05198, equations 1-6) count them; parameters are those of the operators.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vtrain_schemas.operators import dtype_bytes
from vtrain_sim.model import Parts
from vtrain_sim.model.layers import logits_bytes as logits_of
from vtrain_sim.model.once import Holding
from vtrain_sim.specs import ClusterSpec, TrainSpec
from vtrain_sim.specs.replicas import ReplicaSpec
from vtrain_sim.specs.shard import ChunkSpec

# CUDA context, cuBLAS workspaces and the buffers of NCCL's communicators in one process, bytes.
RUNTIME_BYTES = 7 << 29
# A process without a GPU: the interpreter and its libraries.
HOST_RUNTIME_BYTES = 400 << 20
# Memory that the caching allocator holds but cannot use, as part of the activations. Both are what the memory
# logged while BLOOM was tuned (arXiv:2211.05100) leaves beyond what tensors need.
FRAGMENTATION = 0.15
# The same with segments that grow: what is freed is mapped elsewhere, in pages of 2 MiB ("Memory management", PyTorch's
# notes on CUDA semantics; "Memory tuning" in the documentation of Megatron-Bridge, whose launch templates ask for it).
EXPANDABLE_FRAGMENTATION = 0.0
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

    tight: it does not fit with what the caching allocator usually cannot use (`FRAGMENTATION`), but tensors and runtime
    alone do: it may run, since the allocator gives back what it caches before it fails, and surely runs with expandable
    segments.
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
        state = "fits" if self.fits else "fits only with expandable segments" if self.tight else "does not fit"
        return (
            f"{state}: stage {worst.stage} needs {worst.peak_bytes / gib:.1f} of "
            f"{self.capacity_bytes / gib:.1f} GiB, most of it {term} ({size / gib:.1f} GiB)"
            + (f"; {self.remedy}" if self.remedy else "")
        )


def fragmentation(train: TrainSpec) -> float:
    """Memory that the allocator holds but cannot use, as part of the activations."""
    return EXPANDABLE_FRAGMENTATION if train.expandable_segments else FRAGMENTATION


def working_bytes(parts: Parts) -> int:
    """Bytes that are alive only while something runs, of one microbatch on one rank."""
    shard = parts.shard
    # Around each sharded block the whole sequence and its gradient are alive.
    return 2 * shard.hidden_bytes if shard.spec.sequence_parallel else 0


def recomputed_bytes(parts: Parts, chunk: ChunkSpec) -> int:
    """Bytes that the largest of the layers that run again, or of the rows of them that do so together, saves; or
    the largest of the modules of layers that run again."""
    largest = together = 0
    for kind, count in chunk.layers:
        if kind.offloaded:
            # One layer's activations are under way while the next one's are made.
            largest = max(largest, 2 * parts.layer(replace(kind, offloaded=False)).saved_bytes)
        elif kind.recomputed:
            saved = parts.layer(kind).saved_bytes
            together = saved if kind.keeps_input else together + count * saved
            largest = max(largest, together)
        else:
            largest = max(largest, parts.again_bytes(kind))
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


def parameter_terms(replicas: ReplicaSpec, holding: Holding, gathered: int) -> tuple[int, int, int, int]:
    """Bytes of weights, gradients, optimizer states and working buffers of what a stage holds.

    Adam keeps two moments, and a copy of parameters that are stored in less (`OptimizerTypes`).
    gathered: parameters that are whole at once where they are fully sharded.
    """
    weight, gradient = dtype_bytes(replicas.precision.params_dtype), dtype_bytes(replicas.main_grads_dtype)
    owned = holding.owned(replicas)
    state = replicas.optimizer.bytes_per_parameter(replicas.precision, replicas.main_grads_dtype)
    if replicas.fully_sharded:
        return owned * weight, owned * gradient, owned * state, gathered * (weight + gradient)
    copies = round(replicas.precision.weight_copy_bytes * holding.product_parameters)
    return holding.total * weight, holding.total * gradient, owned * state, copies
