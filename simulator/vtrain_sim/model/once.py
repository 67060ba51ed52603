"""What a stage does once per step, besides the passes of its microbatches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from vtrain_schemas.operators import Operator, dtype_bytes
from vtrain_sim.frozen import hashed_once
from vtrain_sim.model.muon import Matrices, Matrix, busiest, orthogonalisation
from vtrain_sim.model.offload import host_update
from vtrain_sim.model.program import Communication, Compute, Item
from vtrain_sim.specs.groups import Group
from vtrain_sim.specs.replicas import ReplicaSpec


@hashed_once
@dataclass(frozen=True)
class Holding:
    """What one rank of a stage holds.

    parameters: that all data parallel ranks share; expert_parameters: of experts. replicated_parameters: of the first,
    those that tensor parallel ranks do not split (`Program.replicated_parameters`). product_parameters: of both, those
    of linear layers. table_parameters: the table of a tied embedding, where it or the output layer is here. matrices:
    of linear layers, which Muon orthogonalises.
    """

    parameters: int
    expert_parameters: int
    replicated_parameters: int
    product_parameters: int
    table_parameters: int
    matrices: Matrices = ()

    @property
    def total(self) -> int:
        """All parameters on the rank."""
        return self.parameters + self.expert_parameters

    def owned(self, replicas: ReplicaSpec) -> int:
        """Parameters whose optimizer state is on the rank."""
        if not (replicas.sharded or replicas.fully_sharded):
            return self.total
        return -(-self.parameters // replicas.dp.size) - (-self.expert_parameters // replicas.expert_dp.size)

    def own_matrices(self, replicas: ReplicaSpec) -> Matrices:
        """Those whose momentum is on the rank with most work, where each belongs to one data parallel rank."""
        return _own_matrices(self.matrices, replicas) if replicas.sharded else self.matrices


# Asked for the update's time and for its memory.
@lru_cache(maxsize=1 << 12)
def _own_matrices(matrices: Matrices, replicas: ReplicaSpec) -> Matrices:
    owned: list[tuple[Matrix, int]] = []
    for expert, ranks, tp in (
        (False, replicas.dp.size, replicas.tp.size),
        (True, replicas.expert_dp.size, replicas.expert_tp.size),
    ):
        owned += busiest([entry for entry in matrices if entry[0].expert == expert], ranks, tp)
    return tuple(owned)


@dataclass(frozen=True)
class OncePerStep:
    """before: ahead of the first pass. sync: after the last pass, until the stage's gradients are complete; the
    reductions that run beside passes are not in it. update: from there on to the end of the step."""

    before: tuple[Item, ...]
    sync: tuple[Item, ...]
    update: tuple[Item, ...]


def reduction(group: Group, parameters: int, replicas: ReplicaSpec) -> Communication:
    """Reduction of the gradients of so many parameters."""
    op = "reduce_scatter" if replicas.sharded else "all_reduce"
    return Communication("grad_sync", op, group, parameters * dtype_bytes(replicas.main_grads_dtype), blocking=False)


def gather(group: Group, parameters: int, replicas: ReplicaSpec) -> Communication:
    """Gathering of so many updated parameters."""
    nbytes = parameters * replicas.precision.gathered_bytes
    return Communication("param_gather", "all_gather", group, nbytes, blocking=False)


def by_group(parameters: int, expert_parameters: int, replicas: ReplicaSpec) -> list[tuple[Group, int]]:
    """Parameters by the group that reduces their gradients; groups of one rank have nothing to do."""
    both = ((replicas.dp, parameters), (replicas.expert_dp, expert_parameters))
    return [(group, count) for group, count in both if group.size > 1 and count]


def once_per_step(replicas: ReplicaSpec, holding: Holding) -> OncePerStep:
    """What a stage that holds so much does once per step."""
    owned = holding.owned(replicas)
    groups = by_group(holding.parameters, holding.expert_parameters, replicas)
    before: list[Item] = [_elements("zero_grad", owned if replicas.fully_sharded else holding.total)]
    if replicas.precision.casts_inputs and not replicas.fully_sharded:
        # Linear layers keep what their weights were converted to for all microbatches of a step.
        before += [_weights(kind, holding.product_parameters, replicas) for kind in replicas.precision.quantises_by]
    sync: list[Item] = []
    if not (replicas.fully_sharded or replicas.overlap_grad_reduce):
        sync += [reduction(group, count, replicas) for group, count in groups]
    if holding.table_parameters and replicas.embedding.size > 1:
        sync.append(_sum("embedding_sync", replicas.embedding, holding.table_parameters, replicas))
    if replicas.sequence_parallel and holding.replicated_parameters:
        sync.append(_sum("norm_grads", replicas.tp, holding.replicated_parameters, replicas))
    on_host = round(replicas.optimizer.on_host * owned)
    update: list[Item] = [_elements(kind, owned) for kind in ("grad_prepare", "grad_norm", "grad_clip")]
    update += [_elements("optimizer", owned - on_host)] if on_host < owned or not owned else []
    update += host_update(on_host, replicas.optimizer.overlaps_host) if on_host else []
    if replicas.optimizer.muon is not None:
        for matrix, count in holding.own_matrices(replicas):
            tp = replicas.expert_tp if matrix.expert else replicas.tp
            update += orthogonalisation(matrix, tp, replicas.optimizer.muon) * count
    if replicas.model_parallel.size > 1:
        update.append(Communication("grad_norm", "all_reduce", replicas.model_parallel, 4))
    if replicas.sharded and not replicas.overlap_param_gather:
        update += [gather(group, count, replicas) for group, count in groups]
    update.append(Compute("step_overhead", Operator("step_overhead", "update", dtype="float32")))
    return OncePerStep(tuple(before), tuple(sync), tuple(update))


def _sum(name: str, group: Group, parameters: int, replicas: ReplicaSpec) -> Communication:
    return Communication(name, "all_reduce", group, parameters * dtype_bytes(replicas.main_grads_dtype))


def _weights(kind: str, count: int, replicas: ReplicaSpec) -> Compute:
    return Compute(f"weights_{kind}", Operator(kind, "forward", count, 1, dtype=replicas.precision.params_dtype))


def _elements(kind: str, count: int) -> Compute:
    return Compute(kind, Operator(kind, "update", count, dtype="float32"))
