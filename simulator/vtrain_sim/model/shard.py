"""Sizes on one rank, and operators with the communication of their tensor-parallel regions.

Follows Megatron-Core: Shoeybi et al. 2019 (tensor parallelism), Korthikanti et al. 2022 (sequence
parallelism), Transformer Engine's user buffers (communication in pieces beside its product).
"""

from __future__ import annotations

from collections.abc import Iterable

from vtrain_schemas.operators import Operator, dtype_bytes
from vtrain_schemas.operators import kind as kind_of
from vtrain_sim.frozen import changed
from vtrain_sim.model.program import Communication, Compute, Item, Wait, in_parts
from vtrain_sim.specs.precision import precisions
from vtrain_sim.specs.shard import ShardSpec

_CASTS = frozenset(kind for known in precisions() for kind in known.quantises_by)
# Forward and backward items of a region.
Region = tuple[list[Item], list[Item]]


class Shard:
    """One rank's share of a model.

    tokens: of a microbatch, over the context parallel ranks. local_tokens: between the tensor-parallel
    regions, where sequence parallelism gives each rank a part of the sequence. size: bytes of an element.
    local_input_bytes: what a linear layer keeps of the local hidden states.
    """

    def __init__(self, spec: ShardSpec) -> None:
        self.spec = spec
        self.model = spec.model
        self.tp = spec.tp.size
        self.dtype = spec.precision.params_dtype
        self.size = dtype_bytes(self.dtype)
        self.tokens = spec.model.seq_length * spec.micro_batch_size // spec.cp.size
        self.local_tokens = self.tokens // self.tp if spec.sequence_parallel else self.tokens
        self.hidden_bytes = self.tokens * spec.model.hidden_size * self.size
        self.local_hidden = self.local_tokens * spec.model.hidden_size
        self.local_input_bytes = round(self.local_hidden * spec.precision.saved_input_bytes)
        self.parameters_per_norm = 2 if spec.model.normalization == "LayerNorm" else 1

    @property
    def checkpoint_bytes(self) -> int:
        """What a layer that runs again keeps: its input."""
        return self.local_hidden * self.size

    # -- operators -------------------------------------------------------------------------

    def operator(
        self, name: str, kind: str, m: int, n: int = 0, k: int = 0, *, parameters: int = 0, saves: int | None = None
    ) -> Compute:
        """A forward operator in the parameters' type. saves: see `saved`."""
        return self._compute(name, Operator(kind, "forward", m, n, k, dtype=self.dtype), parameters, 0, saves)

    def norm(self, name: str, rows: int, columns: int, saves: int | None = None) -> Compute:
        """LayerNorm or RMSNorm of [rows, columns]."""
        parameters = self.parameters_per_norm * columns
        return self.operator(name, "norm", rows, columns, parameters=parameters, saves=saves).replicated()

    def norm_after(self, name: str, region: Region) -> Region:
        """The region, with a norm of what it puts out where the layer has one after each block."""
        if self.model.norms_per_layer < 4:
            return region
        norm = self.norm(name, self.local_tokens, self.model.hidden_size)
        return [*region[0], norm], [backward(norm), *region[1]]

    def linear(
        self, name: str, m: int, n: int, k: int, *, bias: bool = False, saves: int | None = None
    ) -> list[Compute]:
        """[m, k] x [k, n]; its input is cast first where the precision says so."""
        operator = Operator("gemm", "forward", m, n, k, dtype=self.spec.precision.product_dtype)
        return [*self._cast(name, m, k), self._compute(name, operator, n * k + (n if bias else 0), 0, saves)]

    def expert_linear(self, name: str, m: int, n: int, k: int, experts: int, *, bias: bool = False) -> list[Compute]:
        """The products of so many experts, which share m tokens."""
        operator = Operator("grouped_gemm", "forward", m, n, k, experts, dtype=self.spec.precision.product_dtype)
        return [*self._cast(name, m, k), self._compute(name, operator, 0, experts * (n * k + (n if bias else 0)), None)]

    def _compute(
        self, name: str, operator: Operator, parameters: int, expert_parameters: int, saves: int | None
    ) -> Compute:
        kept = sum(self.saved(operator).values()) if saves is None else saves
        return Compute(name, operator, parameters=parameters, expert_parameters=expert_parameters, saves=kept)

    def saved(self, operator: Operator) -> dict[str, int]:
        """Bytes of each tensor that an operator keeps for its backward pass, as its kind says.

        Where the tensor is another operator's too, or is kept in a smaller part, the program says how much.
        """
        return kind_of(operator.kind).saved(operator, self.model.dropout, self.model.swiglu)

    def _cast(self, name: str, m: int, k: int) -> list[Compute]:
        precision = self.spec.precision
        if not precision.casts_inputs:
            return []
        return [self.operator(f"{name}_{kind}", kind, m, k, saves=0) for kind in precision.quantises_by]

    # -- tensor-parallel regions -------------------------------------------------------------

    def over_tp(self, name: str, op: str, nbytes: int | None = None, blocking: bool = True) -> Communication:
        """A collective over the tensor parallel group; of the hidden states unless `nbytes` says else."""
        size = self.hidden_bytes if nbytes is None else nbytes
        return Communication(name, op, self.spec.tp, size, blocking)

    def _operand_bytes(self, linear: list[Compute]) -> int:
        """Bytes of the hidden states that a linear layer's ranks gather: converted first where they are converted."""
        casts = len(linear) > 1
        return (
            round(self.hidden_bytes / self.size * self.spec.precision.saved_input_bytes) if casts else self.hidden_bytes
        )

    def _local(self, casts: list[Compute]) -> list[Compute]:
        """Casts of the rank's own part of the sequence, which is gathered after them."""
        return [changed(c, operator=changed(c.operator, m=c.operator.m // self.tp)) for c in casts]

    def column_parallel(self, region: str, linear: list[Compute]) -> Region:
        """A linear layer at the entry of a tensor-parallel region.

        With sequence parallelism its input is gathered, again in the backward pass beside the input's gradient,
        whose sum is scattered beside the weights' gradient. Without, the input's gradient is summed there. What is
        gathered is converted before (Transformer Engine's quantised all-gather).
        """
        *casts, product = linear
        gathered = self._operand_bytes(linear)
        back: list[Item] = gradient_casts(linear)
        if self.tp == 1:
            return [*linear], [*back, backward(product)]
        sums = "reduce_scatter" if self.spec.sequence_parallel else "all_reduce"
        halves = in_parts(backward(product), 0.5, 0.5)
        if self.spec.splits_backward:
            # Nothing that the pass of input gradients has left to do hides their sum.
            again = changed(self.over_tp(f"{region}_again", "all_gather", gathered, blocking=False), for_weights=True)
            once_more: list[Item] = [again, Wait(again.name)] if self.spec.sequence_parallel else []
            back += [*once_more, backward(product), self.over_tp(region, sums)]
        elif self.spec.sequence_parallel:
            again_beside = self.over_tp(f"{region}_again", "all_gather", gathered, blocking=False)
            back += [again_beside, halves[0], Wait(again_beside.name), *self._beside(region, sums, halves[1])]
        elif self.spec.async_tp_allreduce:
            back += [halves[0], *self._beside(region, sums, halves[1])]
        else:
            back += [backward(product), self.over_tp(region, sums)]
        return self._gathered(region, casts, product), back

    def _beside(self, region: str, op: str, beside: Compute) -> list[Item]:
        return [self.over_tp(region, op, blocking=False), beside, Wait(region)]

    def _gathered(self, region: str, casts: list[Compute], product: Compute) -> list[Item]:
        if not self.spec.sequence_parallel:
            return [*casts, product]
        local, gathered = self._local(casts), self._operand_bytes([*casts, product])
        if not self.spec.tp_comm_overlap:
            return [*local, self.over_tp(region, "all_gather", gathered), product]
        # Piece by piece: the product of what has arrived runs beside the exchange of the rest.
        first, last = in_parts(product, self._pieces, 1 - self._pieces)
        return [*local, self.over_tp(region, "all_gather", gathered, blocking=False), first, Wait(region), last]

    def row_parallel(self, region: str, linear: list[Compute]) -> Region:
        """A linear layer at the exit of a tensor-parallel region: its output is summed over the group."""
        *casts, product = linear
        # What it adds to the sum is whole on every rank: its bias.
        bias = product.parameters - product.operator.n * product.operator.k
        product = changed(product, replicated_parameters=bias)
        linear = [*casts, product]
        back: list[Item] = gradient_casts(linear)
        if self.tp == 1:
            return [*linear], [*back, backward(product)]
        if not self.spec.sequence_parallel:
            return [*linear, self.over_tp(region, "all_reduce")], [*back, backward(product)]
        back, gathered = gradient_casts([*self._local(casts), product]), self._operand_bytes(linear)
        if not self.spec.tp_comm_overlap:
            return (
                [*linear, self.over_tp(region, "reduce_scatter")],
                [*back, self.over_tp(region, "all_gather", gathered), backward(product)],
            )
        first, last = in_parts(product, 1 - self._pieces, self._pieces)
        forward: list[Item] = [*casts, first, self.over_tp(region, "reduce_scatter", blocking=False), last]
        # The input's gradient is half of the backward product, unless the weights' is a pass of its own.
        beside = self._pieces if self.spec.splits_backward else 0.5 * self._pieces
        parts = in_parts(backward(product), beside, 1 - beside)
        gather = self.over_tp(region, "all_gather", gathered, blocking=False)
        return [*forward, Wait(region)], [*back, gather, parts[0], Wait(region), parts[1]]

    @property
    def _pieces(self) -> float:
        """Share of a product beside which its communication runs when both go piece by piece."""
        return (self.tp - 1) / self.tp


def backward(item: Compute) -> Compute:
    """The backward pass of a forward operator."""
    operator = changed(item.operator, phase="backward")
    return changed(item.without_tensors(), operator=operator, host_waits=False)


def gradient_casts(linear: list[Compute]) -> list[Item]:
    """The casts of a linear layer's output gradient [m, n], which is converted as its input [m, k] was."""
    *casts, product = linear
    turned = [backward(cast) for cast in casts]
    return [changed(back, operator=changed(back.operator, n=product.operator.n)) for back in turned]


def recompute(item: Compute) -> Compute:
    """A forward operator, run again in the backward pass."""
    return changed(backward(item), operator=changed(item.operator, phase="recompute"))


def run_again(forward: Iterable[Item]) -> list[Item]:
    """The forward program, run again in the backward pass."""
    return [recompute(i) if isinstance(i, Compute) else i for i in forward]


def backward_of(items: Iterable[Compute]) -> list[Item]:
    """Backward passes in reverse order, each product after the casts of its output gradient."""
    result: list[Item] = []
    casts: list[Compute] = []
    products: list[list[Compute]] = []
    for item in items:
        if item.operator.kind in _CASTS:
            casts.append(item)
        else:
            products.append([*casts, item])
            casts = []
    for group in reversed(products):
        result += [*gradient_casts(group), backward(group[-1])]
    return result
