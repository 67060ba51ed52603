"""What Muon does at the update: momentum orthogonalised by Newton-Schulz steps (Jordan et al. 2024).

As Megatron-Core runs it (TensorParallelMuon, LayerWiseDistributedOptimizer): two-dimensional weights of linear layers,
each expert's its own; embeddings, the output layer, biases and norms stay with Adam. A step of an m x n matrix, m at
most n, is three products: A = X X', A A and (b A + c A A) X. Its input is in fp32 and multiplied in bf16
(--muon-fp32-matmul-prec medium).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vtrain_schemas.operators import Operator
from vtrain_sim.frozen import hashed_once
from vtrain_sim.model.program import Communication, Compute, Item, Program
from vtrain_sim.specs.groups import Group
from vtrain_sim.specs.model import ModelSpec
from vtrain_sim.specs.optimizer import BLOCKWISE, DISTRIBUTED, MuonSpec

# Bytes of an element of the momentum.
MOMENTUM_BYTES = 4
_PRODUCTS = frozenset(("gemm", "grouped_gemm", "router"))
# Of linear layers with one fused weight Megatron-Core leaves this one out; the output layer counts as an embedding.
_NOT_MATRICES = frozenset(("output_layer", "mamba_in_proj"))
# Linear layers whose input is split over tensor parallel ranks; of the others that are split, the output is.
_ROW_PARALLEL = frozenset(
    ("linear_proj", "linear_fc2", "shared_fc2", "experts_fc2", "mamba_out_proj", "delta_out_proj")
)
NO_SPLIT, ROWS, COLUMNS = -1, 0, 1


@hashed_once
@dataclass(frozen=True)
class Matrix:
    """One rank's part of a weight: rows are outputs. split: what tensor parallel ranks share. expert: of an expert."""

    rows: int
    columns: int
    split: int
    expert: bool

    @property
    def size(self) -> int:
        """Parameters on the rank."""
        return self.rows * self.columns

    def whole(self, ranks: int) -> Matrix:
        """The matrix that so many ranks share."""
        if self.split == ROWS:
            return replace(self, rows=self.rows * ranks)
        return replace(self, columns=self.columns * ranks) if self.split == COLUMNS else self


Matrices = tuple[tuple[Matrix, int], ...]


def matrices_of(runs: Iterable[tuple[Program, int]], model: ModelSpec) -> Matrices:
    """The matrices of programs (each with how many times in a row), and how many there are of each."""
    counts: Counter[Matrix] = Counter()
    for program, count in runs:
        for item in program.forward:
            if isinstance(item, Compute) and item.operator.kind in _PRODUCTS and item.name not in _NOT_MATRICES:
                for matrix, problems in _of_item(item, model):
                    counts[matrix] += problems * count
    return tuple(counts.items())


def _of_item(item: Compute, model: ModelSpec) -> list[tuple[Matrix, int]]:
    rows, columns = item.operator.n, item.operator.k
    if not item.parameters + item.expert_parameters:
        return []
    whole = item.replicated_parameters == item.parameters > 0
    split = NO_SPLIT if whole else COLUMNS if item.name in _ROW_PARALLEL else ROWS
    expert = item.expert_parameters > 0
    if item.name != "linear_qkv":
        return [(Matrix(rows, columns, split, expert), item.operator.batch)]
    # Queries, keys and values are a matrix each (--muon-no-split-qkv is not simulated).
    key = rows * model.num_query_groups * model.kv_channels // model.qkv_width
    gated = model.attention_output_gate
    # The gate of the output is as wide as the queries, and a matrix like them.
    query = (rows - 2 * key) // (2 if gated else 1)
    parts = Counter((*(query,) * (2 if gated else 1), key, key))
    return [(Matrix(part, columns, split, expert), count) for part, count in parts.items()]


def busiest(matrices: Sequence[tuple[Matrix, int]], ranks: int, tp: int) -> Matrices:
    """The whole matrices of the rank with most work, where each belongs to one of so many ranks.

    The costliest first, each to the rank that has least so far, as Megatron-Core packs its buckets.
    """
    if ranks == 1:
        return tuple(matrices)
    loads = [(0, rank) for rank in range(ranks)]
    owned: list[Counter[Matrix]] = [Counter() for _ in range(ranks)]
    costs = [(_cost(matrix.whole(tp)), matrix, count) for matrix, count in matrices]
    for cost, matrix, count in sorted(costs, key=lambda entry: -entry[0]):
        for _ in range(count):
            load, rank = heapq.heappop(loads)
            owned[rank][matrix] += 1
            heapq.heappush(loads, (load + cost, rank))
    _, most = max(loads)
    return tuple(owned[most].items())


def _cost(matrix: Matrix) -> int:
    """FLOPs of one Newton-Schulz step: 4 m^2 n + 2 m^3."""
    m, n = sorted((matrix.rows, matrix.columns))
    return 4 * m * m * n + 2 * m**3


def orthogonalisation(matrix: Matrix, tp: Group, muon: MuonSpec) -> list[Item]:
    """Newton-Schulz steps of one matrix, with the exchanges of the ranks that share it.

    tp: those ranks. duplicated: each gathers the whole matrix. distributed: each works on its part, and they sum the
    product of the dimension that they share. blockwise: a part is a matrix of its own.
    """
    shared = matrix.split != NO_SPLIT and tp.size > 1 and muon.tp_mode != BLOCKWISE
    if shared and muon.tp_mode == DISTRIBUTED:
        inner, outer = (matrix.rows, matrix.columns) if matrix.split == ROWS else (matrix.columns, matrix.rows)
        summed = Communication("muon_gram", "all_reduce", tp, outer * outer * MOMENTUM_BYTES)
        first, *others = _step(outer, inner, muon)
        return [first, summed, *others] * muon.num_ns_steps
    whole = matrix.whole(tp.size) if shared else matrix
    m, n = sorted((whole.rows, whole.columns))
    steps: list[Item] = [*_step(m, n, muon)] * muon.num_ns_steps
    if not shared:
        return steps
    return [Communication("muon_gather", "all_gather", tp, whole.size * MOMENTUM_BYTES), *steps]


def _step(m: int, n: int, muon: MuonSpec) -> list[Compute]:
    """One step of an m x n matrix. Of symmetric products, kernels made for them compute half."""
    symmetric = -(-m // 2) if muon.use_syrk else m
    sizes = ((m, symmetric, n), (m, symmetric, m), (m, n, m))
    return [Compute("muon", Operator("gemm", "forward", *size, dtype="bfloat16")) for size in sizes]


def step_bytes(matrices: Matrices, muon: MuonSpec, tp: int, expert_tp: int) -> int:
    """Bytes of what the largest matrix needs while it is orthogonalised: itself three times, and two of its squares."""
    wholes = (
        matrix if muon.tp_mode == BLOCKWISE else matrix.whole(expert_tp if matrix.expert else tp)
        for matrix, _ in matrices
    )
    return max(
        (MOMENTUM_BYTES * (3 * w.size + 2 * min(w.rows, w.columns) ** 2) for w in wholes),
        default=0,
    )
