"""Flags that contradict each other are refused; a choice that was made is kept; what has no effect is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.inputs.notes import without_effect
from vtrain_sim.specs import Configuration

STEP = "--micro-batch-size 1 --global-batch-size 16"
LLAMA = presets.model("llama3-8b")
PIPELINE = "--pipeline-model-parallel-size 4 --num-virtual-stages-per-pipeline-rank 2"
EXPERTS = "--num-experts 8 --moe-router-topk 2"


def read(flags: str, base: Configuration | None = None) -> Configuration:
    if base is not None:
        return configuration_from_flags(flags.split(), base)
    return configuration_from_flags([*STEP.split(), *flags.split()], None, 0, LLAMA)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ("--pipeline-model-parallel-layout Et*16|t*16L", "has 2 stages, --pipeline-model-parallel-size is 1"),
        (
            "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 16 "
            "--pipeline-model-parallel-layout Et*8|t*8|t*8|t*8L",
            "has 2 chunks per stage, --num-layers-per-virtual-pipeline-stage says else",
        ),
        (
            "--decoder-first-pipeline-num-layers 4 --decoder-last-pipeline-num-layers 5",
            "of two stages: --pipeline-model-parallel-size is 1",
        ),
        (
            "--pipeline-model-parallel-size 4 --decoder-first-pipeline-num-layers -1",
            "--decoder-first-pipeline-num-layers is -1: it must be 0 or more",
        ),
        ("--pipeline-model-parallel-size 4 --num-layers-per-virtual-pipeline-stage 0", "which does not divide"),
        ("--pipeline-model-parallel-size 2 --pipeline-model-parallel-layout Et*16|t*16L|||||", "no multiple|ends with"),
        ("--pipeline-model-parallel-size 2 --pipeline-model-parallel-layout Et*16|t*16L||", "ends with the loss"),
        ("--pipeline-model-parallel-size 2 --pipeline-model-parallel-layout t*16|t*16", "begins with the embedding"),
        ("--pipeline-model-parallel-size 2 --pipeline-model-parallel-layout Et*8|Lt*24", "ends with the loss"),
        ("--pipeline-model-parallel-size 2 --pipeline-model-parallel-layout EEt*16|t*16L", "each once"),
        ("--tp-comm-overlap", "--tp-comm-overlap needs --sequence-parallel"),
        ("--hidden-dropout nan", "--hidden-dropout is nan: it takes a number from 0 to 1"),
        ("--hidden-dropout -1", "from 0 to 1"),
        ("--attention-dropout 2", "from 0 to 1"),
        ("--padded-vocab-size 1001 --tensor-model-parallel-size 8", "--padded-vocab-size is 1001"),
        ("--moe-imbalance-factor 2", "--moe-imbalance-factor needs --num-experts"),
        (f"{EXPERTS} --moe-imbalance-factor 1.5", "on one of 1 expert parallel ranks"),
        (f"{EXPERTS} --data-parallel-size 4 --expert-model-parallel-size 4 --moe-imbalance-factor 5", "it is 4"),
    ],
)
def test_what_cannot_be_is_refused(flags: str, word: str) -> None:
    with pytest.raises(UserError, match=word) as caught:
        read(flags)
    assert "\n" not in str(caught.value)


def test_vocabularies_that_are_padded_already_are_taken_as_they_are() -> None:
    for size in (1000, 1008):
        c = read(f"--padded-vocab-size {size} --tensor-model-parallel-size 8")
        assert c.model.padded_vocab_size(8) == size


def test_a_choice_of_overlap_is_kept() -> None:
    base = read(f"{PIPELINE} --no-overlap-p2p-communication")
    assert not base.parallel.overlap_p2p
    assert not read("--global-batch-size 64", base).parallel.overlap_p2p
    assert not read("--num-virtual-stages-per-pipeline-rank 4", base).parallel.overlap_p2p
    assert read("--overlap-p2p-communication", base).parallel.overlap_p2p
    assert read("--num-virtual-stages-per-pipeline-rank 2", read(PIPELINE.split(" --num")[0])).parallel.overlap_p2p


@pytest.mark.parametrize(
    ("before", "after", "grads"),
    [
        ("--bf16 --grad-reduce-in-bf16", "--bf16 --fp8-format hybrid", "bfloat16"),
        ("--bf16 --grad-reduce-in-bf16", "--fp16", "float16"),
        ("--bf16", "--fp16", "float16"),
        ("--fp16 --accumulate-allreduce-grads-in-fp32", "--fp16", "float32"),
        ("--fp16", "--bf16", "float32"),
    ],
)
def test_a_choice_of_gradients_is_kept(before: str, after: str, grads: str) -> None:
    assert read(after, read(before)).train.main_grads_dtype == grads


def test_another_activation_switches_the_gate_off() -> None:
    assert LLAMA.swiglu
    assert not read("--squared-relu").model.swiglu
    for several in ("--squared-relu --swiglu", "--swiglu --quick-geglu", "--squared-relu --quick-geglu"):
        with pytest.raises(UserError, match=f"{several.replace(' ', ' and ')} are two activations"):
            read(several)


def test_saying_again_what_is_changes_nothing() -> None:
    said = "--swiglu --hidden-size 4096 --num-attention-heads 32 --seq-length 8192 --group-query-attention"
    assert read(said).model == LLAMA


def test_what_has_no_effect_is_named() -> None:
    flags = ["--moe-router-topk", "2", "--moe-layer-freq", "2", "--moe-shared-expert-overlap", "--kv-lora-rank", "64"]
    experts, latent = without_effect(flags, LLAMA)
    assert experts.startswith("--moe-router-topk, --moe-layer-freq, --moe-shared-expert-overlap have no effect")
    assert latent == "--kv-lora-rank has no effect: the model has no latent attention (--multi-latent-attention)"
    mixture = replace(LLAMA, num_experts=8, moe_router_topk=2)
    assert without_effect(flags[:2], mixture) == ()
    (unfused,) = without_effect(["--transformer-impl", "local", "--use-flash-attn"], LLAMA)
    assert unfused == "--use-flash-attn has no effect: --transformer-impl local has unfused attention alone"
    assert without_effect(["--transformer-impl", "local", "--attention-backend", "unfused"], LLAMA) == ()
