"""Sliding windows and attention sinks: which layers, how much work, how many parameters."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.model import Compute, Parts, build_step
from vtrain_sim.model.chunks import contents_of
from vtrain_sim.model.flops import flops_per_token
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.specs.shard import LayerKind
from vtrain_sim.specs.windows import read_window, windowed_layers

# GPT-OSS 120B (arXiv:2508.10925): every second layer sees 128 tokens.
OSS = ModelSpec(
    36, 2880, 64, 4096, 201088, num_query_groups=8, kv_channels=64, swiglu=True, num_experts=128, moe_router_topk=4,
    moe_ffn_hidden_size=2880, dropout=False, untie_embeddings_and_output_weights=True, normalization="RMSNorm",
    position_embedding_type="rope", window_size=128, window_attn_skip_freq="2", softmax_type="learnable",
)  # fmt: skip
GPT = (
    "--num-layers 4 --hidden-size 512 --num-attention-heads 8 --seq-length 2048 --micro-batch-size 2 "
    "--global-batch-size 8"
)


def read(flags: str) -> Configuration:
    return configuration_from_flags(f"{GPT} {flags}".split())


def attention(configuration: Configuration, windowed: bool) -> Compute:
    program = Parts(configuration.shard).layer(LayerKind(windowed=windowed))
    return next(i for i in program.forward if isinstance(i, Compute) and i.name == "core_attention")


def test_layers_with_a_window() -> None:
    assert windowed_layers(128, "2", 5) == (True, False, True, False, True)
    assert windowed_layers(128, "", 2) == (True, True)
    assert windowed_layers(128, "[1,0,1]", 3) == (True, False, True)
    assert windowed_layers(0, "2", 2) == (False, False)
    with pytest.raises(SpecError, match="--window-attn-skip-freq lists 3 layers"):
        windowed_layers(128, "[1,0,1]", 4)


@pytest.mark.parametrize(
    ("text", "window"), [("128,0", 128), ("(128, 0)", 128), ("[128,0]", 128), ("128", 128), ("-1,0", 0), ("-1,-1", 0)]
)
def test_windows_are_read_as_megatron_reads_them(text: str, window: int) -> None:
    assert read_window("--window-size", text) == window


@pytest.mark.parametrize("text", ["128,128", "wide", "-2,0", "1,2,3"])
def test_other_windows_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="such as 128,0"):
        read_window("--window-size", text)


def test_a_window_has_the_work_of_its_band_and_keeps_as_much() -> None:
    configuration = read("--window-size 128,0 --window-attn-skip-freq 2")
    whole, band = attention(configuration, False), attention(configuration, True)
    # Half of the square of 2,048, and 128 of each token.
    assert band.operator.flops() / whole.operator.flops() == 128 / 1024
    assert band.saves == whole.saves
    kinds = [kind.windowed for kind, _ in build_layers(configuration)]
    assert kinds == [True, False, True, False]
    longer = read("--window-size 4096,0")
    assert attention(longer, True).operator == attention(longer, False).operator


def build_layers(configuration: Configuration) -> list[tuple[LayerKind, int]]:
    (chunk,) = contents_of(configuration.pipeline).chunks
    return list(chunk.layers)


def test_a_learnable_sink_is_a_parameter_of_each_head() -> None:
    plain, sink = (build_step(read(flags)).stages[0].parameters for flags in ("", "--softmax-type learnable"))
    assert sink - plain == 4 * 8


def test_gpt_oss_has_its_published_size_and_flops() -> None:
    """116.83 billion parameters, of which biases of the experts (0.04 billion) are not counted here."""
    (stage,) = build_step(Configuration(OSS, ParallelSpec(), TrainSpec(1, 8))).stages
    assert (stage.parameters + stage.expert_parameters) / 1e9 == pytest.approx(116.83, rel=0.001)
    assert flops_per_token(OSS) == pytest.approx(3.27e10, rel=0.005)
    full = replace(OSS, window_size=0)
    seen = 128 - 128**2 / (2 * 4096)
    assert flops_per_token(full) - flops_per_token(OSS) == pytest.approx(6 * 18 * 2 * 4096 * (4096 / 2 - seen))
