"""Types of optimizer states and gradients: bytes by hand, from flags and captured runs."""

from __future__ import annotations

import pytest

from vtrain_sim.errors import UserError
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.model import Parts, build_step
from vtrain_sim.model.chunks import PartName
from vtrain_sim.model.layers import logits_bytes
from vtrain_sim.simulate.memory import parameter_terms
from vtrain_sim.specs import Configuration

GPT = (
    "--num-layers 2 --hidden-size 512 --num-attention-heads 8 --seq-length 256 --vocab-size 1024 --micro-batch-size 1 "
    "--global-batch-size 16 --data-parallel-size 4 --use-distributed-optimizer"
)
AWARE = "--use-precision-aware-optimizer"


def read(flags: str) -> Configuration:
    return configuration_from_flags(f"{GPT} {flags}".split())


def per_parameter(configuration: Configuration) -> tuple[float, float]:
    """Bytes of gradients per parameter, and of optimizer states per parameter that is the rank's."""
    holding = build_step(configuration).stages[0].holding
    terms = parameter_terms(configuration.replicas, holding, 0)
    owned = holding.owned(configuration.replicas)
    return terms.gradients / holding.total, (terms.optimizer + terms.step) / owned


@pytest.mark.parametrize(
    ("flags", "gradients", "states"),
    [
        ("", 4, 4 + 4 + 4),
        # 16-bit gradients are converted for the step.
        ("--grad-reduce-in-bf16", 2, 4 + 4 + 4 + 4),
        ("--fp32", 4, 4 + 4),
        # 32-bit main parameters need the half that bf16 parameters lack.
        (AWARE, 4, 2 + 4 + 4),
        (f"{AWARE} --grad-reduce-in-bf16", 2, 2 + 4 + 4),
        (f"{AWARE} --main-grads-dtype bf16 --exp-avg-dtype bf16 --exp-avg-sq-dtype bf16", 2, 2 + 2 + 2),
        (f"{AWARE} --main-params-dtype fp16 --exp-avg-dtype fp8 --exp-avg-sq-dtype fp16", 4, 2 + 1 + 2),
        # DeepSpeed adds fp16 gradients up, and copies the rank's flat, once as they are and once in 32 bits.
        ("--fp16 --accumulate-allreduce-grads-in-fp32 --deepspeed-zero", 2, 4 + 4 + 4 + 2 + 4),
        # Parameters in 8 bits have no half of a 32-bit one.
        (f"{AWARE} --fp8-format hybrid --fp8-param-gather --exp-avg-dtype bf16", 4, 4 + 2 + 4),
    ],
)
def test_bytes_per_parameter(flags: str, gradients: int, states: int) -> None:
    assert per_parameter(read(flags)) == (gradients, states)


@pytest.mark.parametrize(("flags", "size"), [("", 4), ("--grad-reduce-in-bf16", 2), ("--main-grads-dtype bf16", 2)])
def test_gradients_are_reduced_in_the_type_of_their_buffers(flags: str, size: int) -> None:
    (stage,) = build_step(read(flags)).stages
    (reduction,) = [item for item in stage.sync if item.name == "grad_sync"]
    assert reduction.nbytes == size * stage.parameters


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ("--exp-avg-dtype bf16", "--exp-avg-dtype bfloat16 needs --use-precision-aware-optimizer"),
        ("--main-params-dtype fp16", "needs --use-precision-aware-optimizer"),
        (f"{AWARE} --main-params-dtype bf16", "--main-params-dtype is 'bf16': it takes one of fp32, fp16"),
        (f"{AWARE} --exp-avg-dtype int4", "it takes one of fp32"),
        (f"{AWARE} --no-use-distributed-optimizer", "needs --use-distributed-optimizer"),
        ("--deepspeed-zero --no-use-distributed-optimizer", "--deepspeed-zero needs --use-distributed-optimizer"),
        ("--main-grads-dtype bf16 --accumulate-allreduce-grads-in-fp32", "contradicts"),
    ],
)
def test_what_megatron_refuses(flags: str, word: str) -> None:
    with pytest.raises(UserError) as caught:
        read(flags)
    assert word in str(caught.value)


def test_a_fused_loss_keeps_no_copy_of_the_logits() -> None:
    """Logits of 256 tokens and 1024 words: bf16, and in fp32 a softmax and a gradient unless they are fused."""
    fused = "--cross-entropy-loss-fusion --cross-entropy-fusion-impl"
    sizes = [logits_bytes(Parts(read(flags).shard).shard) for flags in ("", f"{fused} native", f"{fused} te")]
    assert sizes == [256 * 1024 * 10, 256 * 1024 * 10, 256 * 1024 * 2]
    head = Parts(read(f"{fused} te").shard).program(PartName("head"))
    (loss,) = [item for item in head.forward if item.name == "loss"]
    assert loss.operator.bytes() == 256 * 1024 * 2 * 3
    assert read("--cross-entropy-fusion-impl te").train.cross_entropy_fusion == ""
