"""The parallel layout: how ranks share the model and the batch."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_sim.specs.validation import SpecError, positive


@dataclass(frozen=True)
class ParallelSpec:
    """Parallel sizes; the world has tp x cp x dp x pp ranks.

    vpp: model chunks a stage (1: no interleaving). ep: expert parallel size, part of dp x cp.
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
        if self.vpp > 1 and self.pp == 1:
            raise SpecError(
                "interleaving needs a pipeline: --num-layers-per-virtual-pipeline-stage takes "
                "--pipeline-model-parallel-size of 2 or more"
            )
        if self.overlap_param_gather and not self.distributed_optimizer:
            raise SpecError("--overlap-param-gather needs --use-distributed-optimizer")
        if self.overlap_param_gather and not self.overlap_grad_reduce:
            raise SpecError("--overlap-param-gather needs --overlap-grad-reduce")
        if (self.dp * self.cp) % self.ep:
            raise SpecError(
                f"--expert-model-parallel-size is {self.ep}, which does not divide the "
                f"{self.dp * self.cp} data and context parallel ranks"
            )

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.tp * self.cp * self.dp * self.pp
