"""Gated delta nets: layers that have one, parameters, what ranks share, gates, FLOPs; refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.model import Compute, Parts, Program, build_step
from vtrain_sim.model.flops import flops_per_token
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec
from vtrain_sim.specs.shard import LayerKind

H, KEYS, VALUES, HEADS = 256, 4 * 32, 8 * 64, 8
GPT = (
    f"--num-layers 8 --hidden-size {H} --num-attention-heads 8 --seq-length 128 --vocab-size 1024 --swiglu "
    "--normalization RMSNorm --position-embedding-type rope --disable-bias-linear --micro-batch-size 1 "
    "--global-batch-size 8"
)
DELTA = (
    "--experimental-attention-variant gdn --linear-attention-freq 4 --linear-num-key-heads 4 --linear-key-head-dim 32 "
    "--linear-num-value-heads 8 --linear-value-head-dim 64"
)


def read(flags: str) -> Configuration:
    return configuration_from_flags(f"{GPT} {flags}".split())


def layer(configuration: Configuration, linear: bool = True) -> Program:
    return Parts(configuration.shard).layer(LayerKind(linear=linear))


def operators(program: Program) -> dict[str, Compute]:
    return {i.name: i for i in program.forward if isinstance(i, Compute)}


def test_all_but_every_fourth_layer_has_one() -> None:
    assert read(DELTA).model.linear_layers == (True, True, True, False) * 2
    listed = read(DELTA.replace("freq 4", "freq ([0]*2+[1]*6)"))
    assert listed.model.linear_layers == (False,) * 2 + (True,) * 6
    (stage,) = build_step(read(DELTA)).stages
    names = [program.name for program, count in stage.chunks[0] for _ in range(count) if "layer" in program.name]
    assert names == (["layer_linear"] * 3 + ["layer"]) * 2


def test_parameters_of_a_layer() -> None:
    """Queries, keys, values and gate, decay and step of each head; convolution of 4 tokens; two numbers a head; a norm of
    one head; output. Norms before both blocks, and a gated feed-forward block."""
    mixer = H * (2 * KEYS + 2 * VALUES + 2 * HEADS) + 4 * (2 * KEYS + VALUES) + 2 * HEADS + 64 + VALUES * H
    ffn = read(DELTA).model.ffn_hidden_size
    assert layer(read(DELTA)).parameters == mixer + 2 * H + 3 * H * ffn


@pytest.mark.parametrize(("tp", "cp"), [(2, 1), (1, 2), (2, 2)])
def test_ranks_share_heads(tp: int, cp: int) -> None:
    sharded = read(f"{DELTA} --tensor-model-parallel-size {tp} --context-parallel-size {cp}")
    rule = operators(layer(sharded))["delta_rule"].operator
    assert (rule.heads, rule.kv_heads, rule.seq_q) == (8 // (tp * cp), 4 // (tp * cp), 128)
    convolution = operators(layer(sharded))["delta_conv1d"].operator
    assert (convolution.m, convolution.n, convolution.k) == (128, (2 * KEYS + VALUES) // (tp * cp), 4)
    exchanges = [i for i in layer(sharded).forward if getattr(i, "op", "") == "all_to_all"]
    assert len(exchanges) == (4 if cp > 1 else 0)
    whole = layer(read(DELTA)).parameters
    norms = 2 * H + 64
    assert layer(sharded).parameters == norms + (whole - norms) // tp


def test_the_output_of_attention_is_gated() -> None:
    plain, gated = (operators(layer(read(flags), linear=False)) for flags in ("", "--attention-output-gate"))
    assert gated["linear_qkv"].operator.n == plain["linear_qkv"].operator.n + H
    assert (gated["output_gate"].operator.m, gated["output_gate"].operator.n) == (128, H)
    assert gated["output_gate"].saves == 2 * 128 * H * 2
    assert "output_gate" not in plain


def test_the_output_of_shared_experts_is_gated() -> None:
    experts = "--num-experts 4 --moe-router-topk 2 --moe-shared-expert-intermediate-size 64"
    plain, gated = read(experts), read(f"{experts} --moe-shared-expert-gate")
    programs = [Parts(c.shard).layer(LayerKind(mixture=True)) for c in (plain, gated)]
    assert programs[1].parameters == programs[0].parameters + H
    assert "shared_gate" in operators(programs[1])


def test_model_flops_of_a_layer() -> None:
    """Projections, convolution and four states of each head, instead of attention's projections and half of the square."""
    mixer = H * (2 * KEYS + 2 * VALUES + 2 * HEADS) + 4 * (2 * KEYS + VALUES) + HEADS * 4 * 32 * 64 + H * VALUES
    attention = H * 3 * H + H * H + 2 * H * 128 / 2
    less = flops_per_token(read("").model) - flops_per_token(read(DELTA).model)
    assert less == pytest.approx(3 * 2 * 6 * (attention - mixer))


def test_qwen3_next_counts_as_published() -> None:
    model = presets.model("qwen3-next-80b-a3b")
    both = Configuration(replace(model, mtp_num_layers=1), ParallelSpec(), TrainSpec(1, 1))
    assert build_step(both).stages[0].holding.total == 81_324_862_720


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (f"{DELTA} --tensor-model-parallel-size 8", "--linear-num-key-heads"),
        (f"{DELTA} --linear-num-value-heads 6", "--linear-num-value-heads"),
        (f"{DELTA} --window-size 64,0", "does not go with --linear-attention-freq"),
        (DELTA.replace("freq 4", "freq 0"), "--linear-attention-freq"),
        ("--experimental-attention-variant dsa", "an experimental attention variant"),
        ("--moe-shared-expert-gate --num-experts 4 --moe-router-topk 2", "needs --moe-shared-expert-intermediate-size"),
    ],
)
def test_what_is_refused(flags: str, word: str) -> None:
    with pytest.raises(UserError) as caught:
        read(flags)
    assert word in str(caught.value)


def test_sizes_without_layers_are_kept() -> None:
    assert ModelSpec(2, 64, 4, 32, 128).linear_layers == (False, False)
