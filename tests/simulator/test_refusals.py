"""Combinations that Megatron-Core refuses to train are refused, with what would be valid."""

from __future__ import annotations

import pytest

from vtrain_sim.errors import UserError
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.specs import Configuration

GPT = (
    "--num-layers 8 --hidden-size 512 --num-attention-heads 8 --seq-length 256 --bf16 --micro-batch-size 1 "
    "--global-batch-size 32"
)
EXPERTS = "--num-experts 8 --moe-router-topk 2"
EXCHANGES = (
    f"{EXPERTS} --expert-model-parallel-size 2 --data-parallel-size 2 --pipeline-model-parallel-size 2 "
    "--num-virtual-stages-per-pipeline-rank 2"
)
OVERLAP = f"{EXCHANGES} --overlap-moe-expert-parallel-comm"
AGAIN = "--recompute-granularity selective --recompute-modules"
SLICED = f"{EXPERTS} --tensor-model-parallel-size 2 --sequence-parallel"


def read(flags: str) -> Configuration:
    return configuration_from_flags(f"{GPT} {flags}".split())


@pytest.mark.parametrize(
    ("refused", "says", "valid"),
    [
        (
            f"--fp8-format hybrid {AGAIN} layernorm",
            "--recompute-modules layernorm does not go with --fp8-recipe delayed",
            f"--fp8-format hybrid --fp8-recipe blockwise {AGAIN} layernorm",
        ),
        (
            f"{EXPERTS} --moe-grouped-gemm --fp8-format e4m3 --fp8-recipe delayed {AGAIN} moe_act",
            "--recompute-modules moe_act does not go with --fp8-recipe delayed",
            f"--fp8-format e4m3 {AGAIN} mlp",
        ),
        (
            "--fp8-format hybrid --first-last-layers-bf16",
            "needs another --fp8-recipe than delayed",
            "--fp8-format hybrid --fp8-recipe tensorwise --first-last-layers-bf16",
        ),
        (
            "--fp8-format hybrid --fp8-param-gather",
            "--fp8-param-gather needs --use-distributed-optimizer",
            "--fp8-format hybrid --fp8-param-gather --use-distributed-optimizer",
        ),
        (
            f"{OVERLAP} {AGAIN} moe",
            "--overlap-moe-expert-parallel-comm does not go with --recompute-modules moe",
            f"{OVERLAP} {AGAIN} layernorm",
        ),
        (
            f"{OVERLAP} --moe-layer-freq 2 --cuda-graph-impl transformer_engine --cuda-graph-scope attn mlp",
            "--cuda-graph-scope mlp does not go with --overlap-moe-expert-parallel-comm",
            f"{OVERLAP} --moe-layer-freq 2 --cuda-graph-impl transformer_engine --cuda-graph-scope attn",
        ),
        (
            f"{OVERLAP} --hybrid-layer-pattern MEMEMEME",
            "leave it out with --hybrid-layer-pattern",
            f"{EXCHANGES} --hybrid-layer-pattern MEMEMEME",
        ),
        (
            SLICED,
            "--expert-tensor-parallel-size is 2: it is 1 for experts with biases",
            f"{SLICED} --disable-bias-linear",
        ),
        (
            f"{EXPERTS} --fp8-format hybrid --moe-token-dispatcher-type allgather --moe-router-padding-for-quantization",
            "does not go with --moe-token-dispatcher-type allgather",
            f"{EXPERTS} --fp8-format hybrid --moe-router-padding-for-quantization",
        ),
        (
            "--cpu-offloading --cpu-offloading-num-layers 2 --cuda-graph-impl local",
            "does not go with CUDA graphs",
            "--cpu-offloading --cpu-offloading-num-layers 2",
        ),
    ],
)
def test_what_megatron_refuses_is_refused(refused: str, says: str, valid: str) -> None:
    with pytest.raises(UserError, match=says):
        read(refused)
    assert read(valid)
