"""Specs: Megatron's defaults, refusals, and flags there and back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.megatron_emit import emit_flags
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, SpecError, TrainSpec
from vtrain_sim.specs.cluster import DeviceSpec

GPT = "--num-layers 8 --hidden-size 512 --num-attention-heads 8 --seq-length 256 --vocab-size 1000"
STEP = "--micro-batch-size 1 --global-batch-size 16"


def read(text: str, base: Configuration | None = None, num_gpus: int = 0) -> Configuration:
    return configuration_from_flags(text.split(), base, num_gpus)


def test_megatrons_defaults() -> None:
    model = read(f"{GPT} {STEP}").model
    assert (model.ffn_hidden_size, model.kv_channels, model.num_query_groups) == (2048, 64, 8)
    assert model.padded_vocab_size(1) == 1024
    assert model.padded_vocab_size(8) == 1024
    assert model.padded_vocab_size(16) == 2048


def test_sizes_that_follow_others_follow_their_new_values() -> None:
    base = read(f"{GPT} {STEP}")
    wider = read("--hidden-size 768 --num-attention-heads 12", base).model
    assert (wider.ffn_hidden_size, wider.kv_channels, wider.num_query_groups) == (3072, 64, 12)
    deeper = read("--num-layers 12", base)
    assert deeper.model.hidden_size == 512
    assert deeper.model.num_layers == 12


def test_sizes_that_a_preset_gives_stay_beside_new_ones() -> None:
    def override(name: str, flags: str) -> ModelSpec:
        return configuration_from_flags(f"{STEP} {flags}".split(), base_model=presets.model(name)).model

    mamba = override("nemotron3-nano-30b-a3b", "--mamba-head-dim 32")
    assert (mamba.mamba_num_heads, mamba.mamba_head_dim) == (64, 32)
    attention = override("qwen3-30b-a3b", "--num-attention-heads 40 --num-query-groups 4")
    assert (attention.num_attention_heads, attention.kv_channels) == (40, 128)


def test_virtual_chunks_from_layers_a_virtual_stage() -> None:
    read_ = read(f"{GPT} {STEP} --pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 2")
    assert read_.parallel.vpp == 2
    assert read_.parallel.overlap_p2p
    assert read_.schedule == "interleaved"


def test_data_parallel_size_from_the_world() -> None:
    c = read(f"{GPT} {STEP} --tensor-model-parallel-size 2", num_gpus=8)
    assert (c.parallel.dp, c.num_microbatches) == (4, 4)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ("--tensor-model-parallel-size 3", "--num-attention-heads"),
        ("--pipeline-model-parallel-size 3", "--num-layers"),
        ("--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 3", "--num-layers-per-virtual"),
        ("--num-layers-per-virtual-pipeline-stage 2", "pipeline"),
        ("--micro-batch-size 3", "--micro-batch-size"),
        ("--global-batch-size 6 --micro-batch-size 4", "--micro-batch-size"),
        ("--data-parallel-size 3", "--global-batch-size"),
        ("--hidden-size -1", "--hidden-size"),
        ("--hidden-size 1e3", "--hidden-size"),
        ("--hidden-size nan", "--hidden-size"),
        ("--hidden-size 99999999999999999999", "--hidden-size"),
        ("--num-layers 0", "--num-layers"),
        ("--num-layrs 4", "--num-layers"),
        ("--num-layers", "needs a value"),
        ("--recompute-granularity half", "selective"),
        ("--expert-model-parallel-size 2", "--expert-model-parallel-size"),
        ("--overlap-param-gather", "--use-distributed-optimizer"),
        ("--context-parallel-size 2 --attention-backend unfused", "flash"),
        ("--num-query-groups 3", "--num-query-groups"),
        ("--schedule interleaved", "interleaved"),
        ("--schedule zigzag", "--schedule"),
        (
            "--pipeline-model-parallel-size 4 --num-layers-per-virtual-pipeline-stage 1 --global-batch-size 6",
            "microbatches",
        ),
        ("--position-embedding-type spiral", "--position-embedding-type"),
        ("stray", "stray"),
    ],
)
def test_impossible_configurations_are_one_sentence(flags: str, word: str) -> None:
    base = read(f"{GPT} {STEP}")
    with pytest.raises(SpecError) as caught:
        read(flags, base)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_world_that_does_not_fit_is_refused() -> None:
    with pytest.raises(SpecError, match="--num-gpus is 6"):
        read(f"{GPT} {STEP} --tensor-model-parallel-size 4", num_gpus=6)


def test_incomplete_model_names_what_is_missing() -> None:
    with pytest.raises(SpecError, match="--hidden-size, --num-attention-heads"):
        read("--num-layers 2 --seq-length 4 --micro-batch-size 1 --global-batch-size 1")


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0])
def test_devices_with_impossible_rates_are_refused(value: float) -> None:
    with pytest.raises(SpecError):
        DeviceSpec("x", {"bfloat16": 1e12}, value, 1 << 30)


powers = st.sampled_from([1, 2, 4, 8])


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    tp, pp, vpp = draw(powers), draw(powers), draw(st.sampled_from([1, 2]))
    vpp = vpp if pp > 1 else 1
    gated, moe = draw(st.booleans()), draw(st.booleans())
    sp = tp > 1 and (moe or draw(st.booleans()))
    zero = draw(st.booleans())
    overlap = zero and draw(st.booleans())
    model = ModelSpec(
        num_layers=pp * vpp * draw(st.integers(1, 4)),
        hidden_size=512,
        num_attention_heads=8,
        num_query_groups=8,
        seq_length=256,
        vocab_size=draw(st.integers(1, 100_000)),
        swiglu=gated,
        # Experts have biases where they are whole on a rank.
        add_bias_linear=(tp == 1 or not moe) and draw(st.booleans()),
        untie_embeddings_and_output_weights=draw(st.booleans()),
        normalization=draw(st.sampled_from(["LayerNorm", "RMSNorm"])),
        position_embedding_type=draw(st.sampled_from(["rope", "learned_absolute", "none"])),
        num_experts=8 if moe else 0,
        moe_router_topk=2 if moe else 0,
    )
    dp = draw(powers)
    parallel = ParallelSpec(
        tp=tp,
        pp=pp,
        vpp=vpp,
        dp=dp,
        ep=dp if moe else 1,
        sequence_parallel=sp,
        distributed_optimizer=zero,
        overlap_grad_reduce=overlap,
        overlap_param_gather=overlap,
        overlap_p2p=vpp > 1,
    )
    train = TrainSpec(
        1,
        dp * pp * draw(st.integers(1, 4)),
        params_dtype=draw(st.sampled_from(["bfloat16", "float16"])),
        attention_kernel=draw(st.sampled_from(["flash", "unfused"])),
        recompute_granularity=draw(st.sampled_from(["none", "selective", "full"])),
    )
    return Configuration(model, parallel, train)


@given(configurations())
def test_flags_there_and_back(configuration: Configuration) -> None:
    assert configuration_from_flags(emit_flags(configuration), None, configuration.parallel.world_size) == configuration


@given(st.lists(st.text(max_size=12), max_size=8))
def test_any_arguments_are_read_or_refused(tokens: list[str]) -> None:
    try:
        configuration_from_flags([*GPT.split(), *STEP.split(), *tokens])
    except UserError as error:
        assert str(error)


@pytest.mark.parametrize("kind", ["models", "clusters"])
def test_presets_load(kind: str) -> None:
    assert presets.names(kind)
    for name in presets.names(kind):
        assert getattr(presets, kind.rstrip("s"))(name).name == name


def test_misspelt_preset_has_a_nearest_name() -> None:
    with pytest.raises(UserError, match="did you mean 'gpt3-175b'"):
        presets.model("gpt3-175")
