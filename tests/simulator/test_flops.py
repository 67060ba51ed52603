"""Model FLOPs against figures derived by hand and published ones; MFU and HFU of projections."""

from __future__ import annotations

import csv
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.test_specs import configurations
from vtrain_schemas.operators import Operator
from vtrain_sim.costs.surfaces import Surfaces
from vtrain_sim.inputs import presets
from vtrain_sim.model.flops import executed_flops, flops_per_token, model_flops
from vtrain_sim.simulate.projection import Projection, Projector
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec
from vtrain_sim.validate.table_row import described_by

BRIDGE = Path(__file__).resolve().parents[3] / "shared" / "validation" / "bridge.csv"
MIXTURE = presets.model("mixtral-8x7b")


def project(cluster: str, configuration: Configuration) -> Projection:
    surfaces = Surfaces.from_dict(presets.cluster_surfaces(cluster))
    return Projector.modelled(presets.cluster(cluster), surfaces).project(configuration)


def test_gpt3_by_hand() -> None:
    """Narayanan et al., SC'21, eq. 2: 72 B s l h^2 (1 + s/6h + V/12lh), with half of the square: s/12h."""
    model = ModelSpec(96, 12288, 96, 2048, 51200)
    batch, s, layers, h, v = 64, 2048, 96, 12288, 51200
    expected = 72 * batch * s * layers * h**2 * (1 + s / (12 * h) + v / (12 * layers * h))
    assert model_flops(model, batch) == pytest.approx(expected, rel=1e-12)


def test_grouped_queries_and_a_gate_by_hand() -> None:
    """Llama-3 8B: 32 heads of 128, 8 groups, 14,336 wide with a gate, 128,256 words padded for tp 8."""
    model = presets.model("llama3-8b")
    layer = 4096 * (4096 + 2 * 1024) + 4096 * 4096 + 2 * 4096 * model.seq_length / 2 + 3 * 4096 * 14336
    assert flops_per_token(model) == 6 * (32 * layer + 4096 * 128256)
    assert flops_per_token(model, 8) == 6 * (32 * layer + 4096 * 129024)


def test_experts_by_hand() -> None:
    """Two of three layers are mixtures: 2 of 8 experts of 256 per token and a shared one of 512; no router."""
    model = ModelSpec(
        3, 512, 8, 1024, 1024, ffn_hidden_size=2048, swiglu=True, num_experts=8, moe_router_topk=2,
        moe_ffn_hidden_size=256, moe_shared_expert_intermediate_size=512, moe_layer_freq="([0]*1+[1]*2)",
    )  # fmt: skip
    attention = 4 * 512 * 512 + 2 * 512 * 1024 / 2
    feed_forward = 3 * 512 * 2048 + 2 * 3 * 512 * (2 * 256 + 512)
    assert flops_per_token(model) == 6 * (3 * attention + feed_forward + 512 * 1024)


def test_latent_attention_by_hand() -> None:
    """DeepSeek-V3 without its multi-token prediction: 61 layers, 3 of them dense."""
    model = replace(presets.model("deepseek-v3"), seq_length=4096)
    h, heads = 7168, 128
    attention = 1536 * (h + heads * 192) + 512 * (h + heads * 256) + h * 64 + heads * 128 * h
    attention += 4096 / 2 * heads * (192 + 128)
    dense, mixture = 3 * h * 18432, 3 * h * 2048 * (8 + 1)
    expected = 61 * attention + 3 * dense + 58 * mixture + h * model.padded_vocab_size(1)
    assert flops_per_token(model) == pytest.approx(6 * expected, rel=1e-12)


@pytest.mark.parametrize(
    ("layers", "hidden", "heads", "batch", "gpus", "seconds", "mfu"),
    [(48, 6144, 64, 4, 8, 1.10, 0.415), (96, 12288, 96, 64, 64, 13.75, 0.514), (105, 20480, 128, 280, 280, 37.83, 0.560),
     (128, 25600, 160, 512, 512, 71.49, 0.563)],
)  # fmt: skip
def test_published_mfu(layers: int, hidden: int, heads: int, batch: int, gpus: int, seconds: float, mfu: float) -> None:
    """Korthikanti et al. 2022, table 5: 22B to 1T; their model FLOPs count the whole square of attention."""
    model = ModelSpec(layers, hidden, heads, 2048, 51200)
    half_square = 6 * layers * 2 * hidden * 2048 / 2 * batch * 2048
    flops = model_flops(model, batch)
    assert (flops + half_square) / (seconds * gpus * 312e12) == pytest.approx(mfu, rel=0.005)
    assert flops / (seconds * gpus * 312e12) < mfu


@pytest.mark.skipif(not BRIDGE.exists(), reason="the shared validation tables are not here")
def test_what_nvidia_publishes_per_gpu() -> None:
    """Megatron-Bridge's TFLOP/s per GPU (Megatron's formula) over its tokens/s, models that this project has."""
    errors = []
    for row in csv.DictReader(BRIDGE.open()):
        has_more = row["hybrid_layer_pattern"] or row["window_size"] or row["moe_latent_size"]
        if has_more or row["mtp_num_layers"] != "0" or row["task"] != "pretrain" or not row["measured_tflops_per_gpu"]:
            continue
        per_token = flops_per_token(_model(row), int(row["tensor_model_parallel_size"]))
        errors.append(
            per_token * float(row["measured_tokens_per_s_per_gpu"]) / float(row["measured_tflops_per_gpu"]) / 1e12 - 1
        )
    assert len(errors) > 50
    # The page rounds tokens/s, at places coarsely.
    assert statistics.median(abs(e) for e in errors) < 0.005
    assert max(abs(e) for e in errors) < 0.03


@pytest.mark.skipif(not BRIDGE.exists(), reason="the shared validation tables are not here")
def test_tokens_of_published_hybrids() -> None:
    """The formula of Megatron-LM with the channels that the mixers have; the table's also counts the router (0.6%)."""
    rows = [row for row in csv.DictReader(BRIDGE.open()) if row["hybrid_layer_pattern"]]
    assert len(rows) > 10
    for row in rows:
        (configuration,) = described_by(row).configurations
        assert flops_per_token(configuration.model) == pytest.approx(float(row["flops_per_token_formula"]), rel=0.01)


def _model(row: dict[str, str]) -> ModelSpec:
    def number(name: str) -> int:
        return int(float(row[name] or 0))

    whole = (
        "ffn_hidden_size", "num_query_groups", "kv_channels", "num_experts", "moe_router_topk", "moe_ffn_hidden_size",
        "moe_shared_expert_intermediate_size", "q_lora_rank", "kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim",
        "v_head_dim",
    )  # fmt: skip
    latent = bool(number("multi_latent_attention"))
    sizes = {name: number(name) for name in whole}
    if latent:
        sizes["num_query_groups"] = number("num_attention_heads")
    return ModelSpec(
        number("num_layers"), number("hidden_size"), number("num_attention_heads"), number("seq_length"),
        number("vocab_size"), swiglu=row["swiglu"] == "1", multi_latent_attention=latent,
        moe_layer_freq=row["moe_layer_freq"] or "1", **sizes,
    )  # fmt: skip


@pytest.mark.parametrize("imbalance", [1.0, 4.0])
def test_imbalance_of_experts_takes_time_and_changes_no_flops(imbalance: float) -> None:
    model = replace(MIXTURE, moe_imbalance_factor=imbalance)
    parallel = ParallelSpec(dp=8, ep=8, distributed_optimizer=True)
    even = project("dgx-h100", Configuration(MIXTURE, parallel, TrainSpec(1, 64)))
    uneven = project("dgx-h100", Configuration(model, parallel, TrainSpec(1, 64)))
    assert uneven.model_flops == even.model_flops
    assert uneven.hardware_flops == pytest.approx(even.hardware_flops, rel=1e-6)
    slower = uneven.iteration_time_s / even.iteration_time_s
    assert slower == 1.0 if imbalance == 1.0 else slower > 2
    assert uneven.mfu == pytest.approx(even.mfu / slower)
    assert uneven.hfu == pytest.approx(even.hfu / slower, rel=1e-6)


def test_routed_operators_count_the_mean_of_the_ranks() -> None:
    model = replace(MIXTURE, moe_imbalance_factor=3.0)
    experts, linear = Operator("grouped_gemm", "forward", 96, 8, 8, batch=2), Operator("gemm", "forward", 96, 8, 8)
    assert executed_flops(experts, model) == experts.flops() / 3
    assert executed_flops(linear, model) == linear.flops()
    assert executed_flops(Operator("norm", "forward", 96, 8), model) == 0.0


def test_throughput_is_what_megatron_logs() -> None:
    configuration = Configuration(
        presets.model("llama3-8b"), ParallelSpec(tp=2, dp=4, sequence_parallel=True), TrainSpec(1, 32)
    )
    found = project("dgx-h100", configuration)
    per_gpu = found.tokens_per_s_per_gpu * flops_per_token(configuration.model, 2) / 1e12
    assert found.model_tflops_per_s_per_gpu == pytest.approx(per_gpu)
    assert found.mfu == pytest.approx(per_gpu / 989.4)
    assert found.to_dict()["model_tflops_per_s_per_gpu"] == found.model_tflops_per_s_per_gpu


def test_mfu_of_8_bit_products_is_relative_to_the_8_bit_peak() -> None:
    configuration = Configuration(presets.model("llama3-8b"), ParallelSpec(dp=8), TrainSpec(1, 32, fp8="hybrid"))
    found = project("dgx-h100", configuration)
    assert found.mfu == pytest.approx(found.model_tflops_per_s_per_gpu / 1978.9)


@settings(max_examples=60, deadline=None)
@given(configurations(), st.sampled_from([256, 4096, 65536]), st.sampled_from(["dgx-a100-80gb", "dgx-h100"]))
def test_mfu_is_never_above_one(configuration: Configuration, seq_length: int, cluster: str) -> None:
    longer = replace(configuration, model=replace(configuration.model, seq_length=seq_length))
    found = project(cluster, longer)
    assert 0 < found.mfu <= found.hfu * (1 + 1e-9)
    assert found.hfu < 1


def test_long_sequences_do_not_pass_the_peak() -> None:
    """Fused attention at 128k tokens, which the whole square once put above 100%."""
    model = replace(presets.model("llama3-8b"), seq_length=131072)
    for cluster in ("dgx-a100-80gb", "dgx-h100"):
        found = project(cluster, Configuration(model, ParallelSpec(tp=8, sequence_parallel=True), TrainSpec(1, 1)))
        assert found.mfu <= found.hfu < 1
