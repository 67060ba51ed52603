"""What a stage does once per step depends on: the data parallel replicas and how they share the optimizer."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_sim.frozen import hashed_once
from vtrain_sim.specs.groups import Group
from vtrain_sim.specs.optimizer import OptimizerTypes
from vtrain_sim.specs.precision import Precision


@hashed_once
@dataclass(frozen=True)
class ReplicaSpec:
    """tp, expert_tp, precision, main_grads_dtype, sequence_parallel: as in `ShardSpec`.

    optimizer: what it keeps of each parameter. dp, expert_dp: ranks that hold the same parameters (context parallel
    ranks and the copies of a pipeline that runs both ways included), and the same experts.
    embedding: first and last stage, which share a tied table; of size 1 where they do not. model_parallel: all
    ranks that hold a part of the model, over which the gradient norm is summed. sharded: the optimizer is
    distributed (ZeRO-1). fully_sharded: parameters and gradients too (ZeRO-3). bucket_size: parameters of a
    bucket of gradients. aligned: reductions begin at the same time on all stages (Megatron's align_grad_reduce).
    """

    tp: Group
    expert_tp: Group
    precision: Precision
    main_grads_dtype: str
    optimizer: OptimizerTypes
    sequence_parallel: bool
    dp: Group
    expert_dp: Group
    embedding: Group
    model_parallel: Group
    sharded: bool
    fully_sharded: bool
    overlap_grad_reduce: bool
    overlap_param_gather: bool
    bucket_size: int
    aligned: bool
