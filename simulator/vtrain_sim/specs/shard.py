"""What the operators of a layer depend on, and nothing else.

An operator program is built from a `ShardSpec` alone. It therefore is the key under which programs and their
times are kept: two configurations with the same `ShardSpec` have the same programs, and a field that a
program reads cannot be missing from the key.
"""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_sim.frozen import hashed_once
from vtrain_sim.specs.groups import Group
from vtrain_sim.specs.model import ModelSpec
from vtrain_sim.specs.precision import Precision


@hashed_once
@dataclass(frozen=True)
class ShardSpec:
    """One rank's share of a model, and how a microbatch runs through it.

    tp, cp, ep, expert_tp, tp_ep: the groups that share a layer. cp_a2a, cp_ring, cp_gather: those of the context
    parallel ranks over which attention exchanges heads, passes keys and values round, or gathers them. fsdp,
    expert_fsdp: the groups over which parameters are fully sharded (ZeRO-3); of size 1 where they are not.
    recomputed_modules: what runs again in the backward pass (`specs.recompute`). offload_modules: whose inputs wait in
    the host's memory for it (`specs.offload`), if they have so many elements (min_offloaded_tensor_size). graphed:
    what CUDA graphs cover (`specs.graphs`).
    fused_experts: activation and biases are in the kernels of the experts' products. pads_routing: the router fills up
    the rows of each expert. splits_backward: input and weight gradients are passes of their own.
    """

    model: ModelSpec
    tp: Group
    cp: Group
    cp_a2a: Group
    cp_ring: Group
    cp_gather: Group
    ep: Group
    expert_tp: Group
    tp_ep: Group
    fsdp: Group
    expert_fsdp: Group
    micro_batch_size: int
    precision: Precision
    main_grads_dtype: str
    attention_kernel: str
    recomputed_modules: tuple[str, ...]
    offload_modules: tuple[str, ...]
    min_offloaded_tensor_size: int
    fused_cross_entropy: bool
    graphed: tuple[str, ...]
    gradient_accumulation_fusion: bool
    moe_grouped_gemm: bool
    fused_experts: bool
    pads_routing: bool
    splits_backward: bool
    sequence_parallel: bool
    tp_comm_overlap: bool
    async_tp_allreduce: bool
    moe_shared_expert_overlap: bool
    moe_token_dispatcher: str
    overlap_moe_comm: bool

    def recomputes(self, module: str) -> bool:
        """Whether a module runs again in the backward pass."""
        return module in self.recomputed_modules

    @property
    def query_parts(self) -> int:
        """Parts of the sequence among which attention's queries are shared: an all-to-all shares heads instead."""
        return self.cp.size // self.cp_a2a.size


@hashed_once
@dataclass(frozen=True)
class LayerKind:
    """What tells the layers of a model apart. mixture: of experts. recomputed: the whole forward pass runs
    again in the backward pass. keeps_input: which it starts from; else it runs again together with the layer before.
    offloaded: what it keeps is in the host's memory. offload_share: of what it keeps, how much goes there and comes
    back beside it, of all layers that are offloaded. stays: its modules keep what they have on the device. windowed: it
    attends to the last tokens alone. symbol: what a layer of a hybrid model is (`specs.hybrid_pattern`); empty:
    attention and a feed-forward block. wide: its products
    are in the parameters' type whatever the others are in. linear: a gated delta net in attention's place."""

    mixture: bool = False
    recomputed: bool = False
    keeps_input: bool = True
    offloaded: bool = False
    windowed: bool = False
    symbol: str = ""
    wide: bool = False
    linear: bool = False
    offload_share: float = 0.0
    stays: bool = False


@hashed_once
@dataclass(frozen=True)
class ChunkSpec:
    """What one virtual stage holds: its layers in order as (kind, how many in a row), and the ends of the model.

    tied: its output layer shares the table of the embedding that the same rank holds. mtp: depths of multi-token
    prediction, each with the layers of mtp_layers; mtp_table: the rank holds a copy of the embedding's table for them.
    mtp_repeated: the first one's parameters serve all of them.
    """

    layers: tuple[tuple[LayerKind, int], ...]
    embedding: bool = False
    head: bool = False
    tied: bool = False
    mtp: int = 0
    mtp_layers: tuple[tuple[LayerKind, int], ...] = ()
    mtp_table: bool = False
    mtp_repeated: bool = False

    @property
    def num_layers(self) -> int:
        """Transformer layers."""
        return sum(count for _, count in self.layers)
