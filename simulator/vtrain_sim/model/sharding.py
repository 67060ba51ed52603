"""Sizes on one rank, and the communication around its tensor-parallel regions.

Follows Megatron-Core: Shoeybi et al. 2019 (tensor parallelism), Korthikanti et al. 2022 (sequence
parallelism).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from vtrain_schemas.operators import Operator, dtype_bytes
from vtrain_sim.model.program import Communication, Compute, Item
from vtrain_sim.specs import Configuration


class Shard:
    """One rank's share of a configuration.

    tokens: of a microbatch, over the context parallel ranks. local_tokens: between the tensor-parallel
    regions, where sequence parallelism gives each rank a part of the sequence.
    """

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        model, parallel, train = configuration.model, configuration.parallel, configuration.train
        self.dtype = train.params_dtype
        self.linear_dtype = "float8" if train.fp8 else train.params_dtype
        self.size = dtype_bytes(self.dtype)
        self.tp = parallel.tp
        self.tokens = model.seq_length * train.micro_batch_size // parallel.cp
        self.local_tokens = self.tokens // self.tp if parallel.sequence_parallel else self.tokens
        self.hidden_bytes = self.tokens * model.hidden_size * self.size

    # -- operators -------------------------------------------------------------------------

    def operator(self, name: str, kind: str, m: int, n: int = 0, k: int = 0, batch: int = 1) -> Compute:
        """A forward operator in the parameters' type."""
        return Compute(name, Operator(kind, "forward", m, n, k, batch, dtype=self.dtype))

    def norm(self, name: str, rows: int, columns: int) -> Compute:
        """LayerNorm or RMSNorm of [rows, columns]."""
        return self.operator(name, "norm", rows, columns)

    def linear(self, name: str, m: int, n: int, k: int, batch: int = 0) -> list[Compute]:
        """[m, k] x [k, n]; with `batch` > 0 over so many experts. In fp8 its input is cast first."""
        kind, count = ("grouped_gemm", batch) if batch else ("gemm", 1)
        gemm = Compute(name, Operator(kind, "forward", m, n, k, count, dtype=self.linear_dtype))
        if self.linear_dtype == self.dtype:
            return [gemm]
        return [self.operator(f"{name}_cast", "cast", m, k), gemm]

    # -- communication ---------------------------------------------------------------------

    def enter(self, name: str, gemm: str) -> tuple[list[Item], list[Item]]:
        """Communication at the entry of a tensor-parallel region: forward and backward."""
        parallel = self.configuration.parallel
        if self.tp == 1:
            return [], []
        if not parallel.sequence_parallel:
            # The input's gradient is summed beside the weight gradient, half of the backward pass.
            behind = gemm if parallel.async_tp_allreduce and not self.configuration.zero_bubble else ""
            return [], [self._over_tp(name, "all_reduce", behind, 0.5)]
        gather = self._over_tp(name, "all_gather", gemm if parallel.tp_comm_overlap else "", self._pieces)
        behind = "" if self.configuration.zero_bubble else gemm
        return [gather], [self._over_tp(name, "reduce_scatter", behind, 0.5)]

    def leave(self, name: str, gemm: str) -> tuple[list[Item], list[Item]]:
        """Communication at the exit of a tensor-parallel region: forward and backward."""
        parallel = self.configuration.parallel
        if self.tp == 1:
            return [], []
        if not parallel.sequence_parallel:
            return [self._over_tp(name, "all_reduce")], []
        behind = gemm if parallel.tp_comm_overlap else ""
        return (
            [self._over_tp(name, "reduce_scatter", behind, self._pieces)],
            [self._over_tp(name, "all_gather", behind, 0.5 * self._pieces)],
        )

    def gather_again(self, gemm: str) -> list[Item]:
        """With sequence parallelism the input is gathered again, beside the input's gradient."""
        if self.tp == 1 or not self.configuration.parallel.sequence_parallel:
            return []
        return [self._over_tp(gemm, "all_gather", "" if self.configuration.zero_bubble else gemm, 0.5)]

    @property
    def _pieces(self) -> float:
        """Share of a GEMM beside which its communication runs when both go piece by piece."""
        return (self.tp - 1) / self.tp

    def _over_tp(self, name: str, op: str, behind: str = "", cover: float = 1.0) -> Communication:
        return Communication(name, op, "tp", self.tp, self.hidden_bytes, behind, cover)


def backward(item: Compute) -> Compute:
    """The backward pass of a forward operator."""
    return replace(item, operator=replace(item.operator, phase="backward"))


def recompute(item: Compute) -> Compute:
    """A forward operator, run again in the backward pass."""
    return replace(item, operator=replace(item.operator, phase="recompute"))


def run_again(forward: Iterable[Item]) -> list[Item]:
    """The forward program, run again in the backward pass."""
    return [recompute(i) if isinstance(i, Compute) else i for i in forward]


def backward_of(items: Iterable[Compute]) -> list[Item]:
    """Backward passes in reverse order; a cast's is that of the output's gradient."""
    return [backward(i) for i in reversed(list(items))]
