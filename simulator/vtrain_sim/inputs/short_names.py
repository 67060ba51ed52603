"""Short names of Megatron's arguments, as people say them and vtrain's settings spell them."""

from __future__ import annotations

SHORT_NAMES = {
    "tp": "--tensor-model-parallel-size",
    "sp": "--sequence-parallel",
    "pp": "--pipeline-model-parallel-size",
    "vpp": "--num-virtual-stages-per-pipeline-rank",
    "cp": "--context-parallel-size",
    "ep": "--expert-model-parallel-size",
    "etp": "--expert-tensor-parallel-size",
    "dp": "--data-parallel-size",
    "mbs": "--micro-batch-size",
    "gbs": "--global-batch-size",
    "recompute": "--recompute-granularity",
    "distributed_optimizer": "--use-distributed-optimizer",
    "fsdp": "--use-torch-fsdp2",
}
