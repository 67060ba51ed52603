"""The parallel layout: how ranks share the model and the batch."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_sim.frozen import computed
from vtrain_sim.specs import context_parallel
from vtrain_sim.specs.checks import SpecError, positive, whole
from vtrain_sim.specs.groups import Groups


def default_bucket_size(replicas: int) -> int:
    """Parameters of a bucket of gradients where nothing says it (Megatron-Core's distributed_data_parallel.py): the
    latency of a larger ring is spread over more bytes."""
    return max(40_000_000, 1_000_000 * replicas)


@dataclass(frozen=True)
class ParallelSpec:
    """Parallel sizes; the world has tp x cp x dp x pp ranks.

    vpp: model chunks per stage (1: no interleaving). ep: expert parallel size, part of dp x cp x tp.
    expert_tp: tensor parallel size of the experts (0: as tp). fsdp: parameters, gradients and optimizer states
    sharded over the data parallel ranks (ZeRO-3). tp_comm_overlap: tensor parallel communication runs
    in pieces beside its GEMM (Transformer Engine's user buffers). async_tp_allreduce: the backward
    all-reduce of a column-parallel layer runs beside its weight gradient. scatter_gather: stages send
    each other 1/tp of the activations, gathered again on the other side (Narayanan et al., SC'21,
    section 4.1). batch_p2p: a stage sends and receives at the same time where its schedule lets it, and the host
    waits for it where nothing overlaps it.
    align_grad_reduce: with overlap_grad_reduce, stages begin to reduce at the same time (Megatron's default).
    bucket_size: parameters of a bucket of gradients; 0: Megatron's default. moe_token_dispatcher: how tokens
    reach their experts, by Megatron's name. moe_shared_expert_overlap: shared experts run beside the exchanges.
    overlap_moe_comm: tokens are exchanged beside the compute of another microbatch.
    microbatch_group_size: microbatches that pass one model chunk before a stage turns to its next chunk; 0:
    Megatron's default, pp. layers: transformer layers of each virtual stage, in the order in which a microbatch
    passes them (pp x vpp numbers); empty: the same everywhere. cp_comm_type: how context parallel ranks exchange what
    attention needs, by Transformer Engine's name. cp_a2a_size: with a2a+p2p, ranks of an inner group, which are next
    to each other and exchange by all-to-alls; 0 with the other types.
    """

    tp: int = 1
    pp: int = 1
    vpp: int = 1
    cp: int = 1
    ep: int = 1
    dp: int = 1
    sequence_parallel: bool = False
    distributed_optimizer: bool = False
    overlap_grad_reduce: bool = False
    overlap_param_gather: bool = False
    overlap_p2p: bool = False
    expert_tp: int = 0
    fsdp: bool = False
    tp_comm_overlap: bool = False
    async_tp_allreduce: bool = True
    scatter_gather: bool = False
    batch_p2p: bool = True
    layers: tuple[int, ...] = ()
    align_grad_reduce: bool = True
    bucket_size: int = 0
    moe_token_dispatcher: str = "alltoall"
    moe_shared_expert_overlap: bool = False
    overlap_moe_comm: bool = False
    microbatch_group_size: int = 0
    cp_comm_type: str = context_parallel.P2P
    cp_a2a_size: int = 0

    def __post_init__(self) -> None:
        for flag, value in (
            ("--tensor-model-parallel-size", self.tp),
            ("--pipeline-model-parallel-size", self.pp),
            ("virtual pipeline chunks", self.vpp),
            ("--context-parallel-size", self.cp),
            ("--expert-model-parallel-size", self.ep),
            ("data parallel size", self.dp),
        ):
            positive(flag, value)
        context_parallel.check_layout(self)
        if self.vpp > 1 and self.pp == 1:
            raise SpecError(
                "interleaving needs a pipeline: --num-layers-per-virtual-pipeline-stage takes "
                "--pipeline-model-parallel-size of 2 or more"
            )
        if self.overlap_param_gather and not self.distributed_optimizer:
            raise SpecError("--overlap-param-gather needs --use-distributed-optimizer")
        if self.overlap_param_gather and not self.overlap_grad_reduce:
            raise SpecError("--overlap-param-gather needs --overlap-grad-reduce")
        whole("--expert-tensor-parallel-size", self.expert_tp, 0)
        whole("--ddp-bucket-size", self.bucket_size, 0)
        whole("--microbatch-group-size-per-virtual-pipeline-stage", self.microbatch_group_size, 0)
        if self.microbatch_group_size and self.vpp == 1:
            raise SpecError(
                "--microbatch-group-size-per-virtual-pipeline-stage needs interleaving "
                "(--num-layers-per-virtual-pipeline-stage): without, there is one model chunk per stage"
            )
        if (self.dp * self.cp * self.tp) % (self.ep * self.etp):
            raise SpecError(
                f"--expert-model-parallel-size times --expert-tensor-parallel-size is {self.ep} x {self.etp}, which "
                f"does not divide the {self.dp * self.cp * self.tp} ranks of a pipeline stage"
            )
        if self.tp_comm_overlap and not self.sequence_parallel:
            raise SpecError("--tp-comm-overlap needs --sequence-parallel")
        if self.moe_shared_expert_overlap and self.moe_token_dispatcher != "alltoall":
            raise SpecError("--moe-shared-expert-overlap needs --moe-token-dispatcher-type alltoall")
        if self.overlap_moe_comm and self.ep == 1:
            raise SpecError("--overlap-moe-expert-parallel-comm needs --expert-model-parallel-size of 2 or more")
        if self.overlap_moe_comm and self.moe_token_dispatcher == "allgather":
            raise SpecError("--overlap-moe-expert-parallel-comm needs --moe-token-dispatcher-type alltoall or flex")
        if self.overlap_moe_comm and self.moe_shared_expert_overlap:
            raise SpecError("--overlap-moe-expert-parallel-comm and --moe-shared-expert-overlap exclude each other")
        if self.fsdp and self.pp > 1:
            raise SpecError("fully sharded data parallelism takes --pipeline-model-parallel-size of 1")
        if self.fsdp and self.distributed_optimizer:
            raise SpecError(
                "fully sharded data parallelism shards the optimizer itself: leave out --use-distributed-optimizer"
            )
        if self.layers and len(self.layers) != self.pp * self.vpp:
            raise SpecError(
                f"the layers of {len(self.layers)} virtual stages are given, there are {self.pp * self.vpp} "
                "(--pipeline-model-parallel-size times the chunks of a stage)"
            )

    @computed
    def groups(self) -> Groups:
        """The communication groups of the layout."""
        return Groups(self)

    @property
    def etp(self) -> int:
        """Tensor parallel size of the experts."""
        return self.expert_tp or self.tp

    @property
    def expert_dp(self) -> int:
        """Ranks that hold the same experts."""
        return self.dp * self.cp * self.tp // (self.ep * self.etp)

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes by short name, in the order of a layout in words: tp, pp and dp, and of the others those above 1."""
        named = {name: getattr(self, name) for name in ("tp", "pp", "vpp", "cp", "ep", "dp")}
        return {name: size for name, size in named.items() if size > 1 or name in ("tp", "pp", "dp")}

    @property
    def in_words(self) -> str:
        """For example ``tp 2, pp 1, dp 4``."""
        return ", ".join(f"{name} {size}" for name, size in self.sizes.items())

    @computed
    def world_size(self) -> int:
        """Number of ranks."""
        return self.tp * self.cp * self.dp * self.pp
