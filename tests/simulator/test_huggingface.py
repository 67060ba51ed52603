"""Fields of a Hugging Face configuration: read, refused, or named where they are left out."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vtrain_sim.commands.sim import app, main
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.huggingface import known_types, left_out, read_config
from vtrain_sim.specs import ModelSpec

BASE = {
    "num_hidden_layers": 6,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "intermediate_size": 1024,
    "max_position_embeddings": 8192,
    "vocab_size": 1000,
}
QWEN = {**BASE, "model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
HYBRID = {
    **BASE, "model_type": "nemotron_h", "hybrid_override_pattern": "M-M*M-", "mamba_num_heads": 16,
    "mamba_head_dim": 64, "ssm_state_size": 128, "n_groups": 8,
}  # fmt: skip
OPT = {**BASE, "model_type": "opt", "ffn_dim": 1024}
DEEPSEEK = {**BASE, "model_type": "deepseek_v2", "n_routed_experts": 8, "num_experts_per_tok": 2}


def written(tmp_path: Path, fields: dict[str, Any]) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(fields))
    return path


def model(tmp_path: Path, fields: dict[str, Any]) -> ModelSpec:
    return read_config(written(tmp_path, fields))


@pytest.mark.parametrize(
    ("fields", "mixtures"),
    [
        (QWEN, [1, 1, 1, 1, 1, 1]),
        ({**QWEN, "decoder_sparse_step": 2}, [0, 1, 0, 1, 0, 1]),
        ({**QWEN, "mlp_only_layers": [0, 5]}, [0, 1, 1, 1, 1, 0]),
        ({**QWEN, "decoder_sparse_step": 3, "mlp_only_layers": [5]}, [0, 0, 1, 0, 0, 0]),
        (DEEPSEEK, [1, 1, 1, 1, 1, 1]),
        ({**DEEPSEEK, "first_k_dense_replace": 1}, [0, 1, 1, 1, 1, 1]),
        ({**DEEPSEEK, "first_k_dense_replace": 1, "moe_layer_freq": 2}, [0, 0, 1, 0, 1, 0]),
    ],
)
def test_which_layers_are_mixtures_of_experts(tmp_path: Path, fields: dict[str, Any], mixtures: list[int]) -> None:
    assert list(map(int, model(tmp_path, fields).moe_layers)) == mixtures


SWITCHED = {"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 4}
LISTED = ["sliding_attention"] * 2 + ["full_attention"] * 4


@pytest.mark.parametrize(
    ("fields", "slides"),
    [
        ({"model_type": "mistral", "sliding_window": 4096}, [1, 1, 1, 1, 1, 1]),
        ({"model_type": "mistral", "sliding_window": None}, [0, 0, 0, 0, 0, 0]),
        ({"model_type": "phi3", "sliding_window": 4096}, [1, 1, 1, 1, 1, 1]),
        ({"model_type": "qwen2", "sliding_window": 4096}, [0, 0, 0, 0, 0, 0]),
        ({"model_type": "qwen2", **SWITCHED}, [0, 0, 0, 0, 1, 1]),
        ({"model_type": "qwen2", **SWITCHED, "use_sliding_window": False}, [0, 0, 0, 0, 0, 0]),
        ({"model_type": "llama", "sliding_window": 4096}, [0, 0, 0, 0, 0, 0]),
        ({"model_type": "gemma2", "sliding_window": 4096}, [1, 0, 1, 0, 1, 0]),
        ({"model_type": "gemma3_text", "sliding_window": 4096}, [1, 1, 1, 1, 1, 0]),
        ({"model_type": "cohere2", "sliding_window": 4096}, [1, 1, 1, 0, 1, 1]),
        # A list in the file counts more than what its family does.
        ({"model_type": "gemma2", "sliding_window": 4096, "layer_types": LISTED}, [1, 1, 0, 0, 0, 0]),
    ],
)
def test_sliding_windows(tmp_path: Path, fields: dict[str, Any], slides: list[int]) -> None:
    read = model(tmp_path, {**BASE, **fields})
    assert list(map(int, read.windowed_layers)) == slides
    assert read.window_size == (4096 if any(slides) else 0)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({**DEEPSEEK, "n_shared_experts": "2"}, "n_shared_experts is '2': it takes a whole number"),
        ({**BASE, "model_type": "llama", "hidden_size": 512.5}, "hidden_size is 512.5: it takes a whole number"),
        ({**BASE, "model_type": "llama", "num_hidden_layers": True}, "num_hidden_layers is True"),
        ({**BASE, "model_type": "llama", "num_hidden_layers": -1}, "--num-layers is -1"),
        ({**QWEN, "num_hidden_layers": 10**9}, "more than any model has"),
        ({**QWEN, "decoder_sparse_step": 7}, "no layer of them"),
        ({**QWEN, "num_experts": 10**12, "num_experts_per_tok": 10**12 + 1}, "from 1 to 1e+12"),
        ({**QWEN, "num_experts_per_tok": 9}, "--moe-router-topk is 9: it takes a whole number from 1 to 8"),
        ({**QWEN, "layer_types": ["linear_attention"] * 6}, "layers of anything but softmax attention"),
        ({**QWEN, "layer_types": ["full_attention"]}, "layer_types does not list its 6 layers"),
        ({**QWEN, "rope_scaling": 2}, "rope_scaling is 2: it takes a table"),
        ({**OPT, "word_embed_proj_dim": 256}, "embeddings of another width than the layers"),
        ({**OPT, "ffn_dim": None}, "does not say ffn_dim"),
        ({**HYBRID, "conv_kernel": 3}, "convolutions of 4 tokens"),
        ({**HYBRID, "hybrid_override_pattern": "MGM*M-"}, "has 'G' (gated delta net)"),
        ({**HYBRID, "hybrid_override_pattern": 6}, "not a number"),
    ],
)
def test_sizes_that_are_none(tmp_path: Path, fields: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError) as caught:
        model(tmp_path, fields)
    assert word in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 400


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    path = written(tmp_path, {**BASE, "model_type": "llama", "attention_bias": True, "num_nextn_predict_layers": 1})
    prediction, biases = left_out(path)
    assert prediction.startswith("num_nextn_predict_layers of ")
    assert biases.startswith("attention_bias of ")
    flags = f"project --cluster dgx-h100 --model {path} --micro-batch-size 1 --global-batch-size 8"
    assert f"note: {biases}" in CliRunner().invoke(app, flags.split()).output
    assert left_out(written(tmp_path, {**BASE, "model_type": "llama", "attention_bias": False})) == ()


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"model_type": "llama", "mlp_bias": True}, "biases of the feed-forward block, which are left out"),
        ({"model_type": "gemma2", "attn_logit_softcapping": 50.0}, "scores of attention capped"),
        ({"model_type": "gpt_neox", "use_parallel_residual": True}, "beside each other, which run one after the other"),
        ({**HYBRID, "use_bias": True}, "biases of projections, which are left out"),
        ({"model_type": "llama", "no_rope_layers": [1, 0]}, "layers without rotary embedding"),
        ({"model_type": "cohere"}, "cohere model, which has attention and feed-forward block beside each other"),
        (
            {"model_type": "mistral3", "text_config": {**BASE, "model_type": "mistral"}, "vision_config": {"n": 1}},
            "enc",
        ),
    ],
)
def test_what_is_approximated_is_said(tmp_path: Path, fields: dict[str, Any], what: str) -> None:
    (sentence,) = left_out(written(tmp_path, {**BASE, **fields}))
    assert what in sentence


def test_groups_of_experts_that_a_token_reaches(tmp_path: Path) -> None:
    """DeepSeek-V2's device-limited routing (arXiv:2405.04434, section 2.2.2)."""
    groups = {**DEEPSEEK, "n_group": 4, "topk_group": 2, "topk_method": "group_limited_greedy"}
    read = model(tmp_path, groups)
    assert (read.moe_router_num_groups, read.moe_router_group_topk) == (4, 2)
    assert model(tmp_path, {**groups, "topk_method": "greedy"}).moe_router_num_groups == 0
    assert model(tmp_path, {**groups, "n_group": 1, "topk_group": 1}).moe_router_num_groups == 0


def test_biases(tmp_path: Path) -> None:
    llama = {**BASE, "model_type": "llama"}
    both = model(tmp_path, {**llama, "attention_bias": True, "mlp_bias": True})
    assert (both.add_bias_linear, both.add_qkv_bias) == (True, False)
    some = model(tmp_path, {**llama, "attention_bias": True})
    assert (some.add_bias_linear, some.add_qkv_bias) == (False, True)
    assert model(tmp_path, {**BASE, "model_type": "qwen2"}).add_qkv_bias


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"model_type": "qwen3_5_moe"}, "gated delta net layers"),
        ({"model_type": "minimax_text_01", "attn_type_list": [0, 1]}, "lightning attention"),
        ({"model_type": "minimax", "attn_type_list": [0, 0, 0, 0, 0, 1]}, "lightning attention"),
        ({"model_type": "minimax"}, "lightning attention"),
        ({"model_type": "jamba"}, "Mamba layers"),
        ({"model_type": "deepseek_v32"}, "sparse attention with an indexer"),
        ({"model_type": "jetmoe"}, "mixtures of attention heads"),
        ({"model_type": "qwen3_5", "text_config": {**BASE, "model_type": "qwen3_5_text"}}, "gated delta net layers"),
        ({"model_type": "t5"}, "read are baichuan, bloom, "),
    ],
)
def test_models_that_are_not_simulated_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fields: dict[str, Any],
    what: str,
) -> None:
    path = written(tmp_path, {**BASE, **fields})
    flags = f"vtrain-sim project --cluster dgx-h100 --model {path} --micro-batch-size 1 --global-batch-size 8"
    monkeypatch.setattr("sys.argv", flags.split())
    with pytest.raises(SystemExit) as done:
        main()
    (sentence,) = capsys.readouterr().err.splitlines()
    assert done.value.code == 2
    assert what in sentence


def test_files_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = written(tmp_path, {**BASE, "model_type": "llama"})
    plain = read_config(path)
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    assert read_config(path) == plain


def test_the_documentation_counts_the_presets() -> None:
    text = (Path(__file__).parents[2] / "docs" / "projection.md").read_text()
    assert f"Presets: {len(presets.names('models'))} models" in text


def test_a_preset_says_what_it_has_not() -> None:
    flags = "project --cluster dgx-h100 --model falcon-7b --micro-batch-size 1 --global-batch-size 8"
    output = CliRunner().invoke(app, flags.split()).output
    assert "note: falcon-7b has attention and feed-forward block beside each other, which run one after" in output
    plain = CliRunner().invoke(app, flags.replace("falcon-7b", "llama3-8b").split()).output
    assert "note: llama3-8b has" not in plain


def test_types_that_the_documentation_lists_are_those_that_are_read() -> None:
    text = (Path(__file__).parents[2] / "docs" / "inputs.md").read_text()
    section = text.partition("## A Hugging Face")[2].partition("The text model of")[0]
    listed = re.findall(r"`(\w+)`", section.partition("|---|---|")[2])
    assert sorted(listed) == list(known_types())


def test_layers_of_a_hybrid(tmp_path: Path) -> None:
    """Nemotron 3 Nano's published file: the preset, at its longest sequence."""
    nano = presets.model("nemotron3-nano-30b-a3b")
    fields = {
        "model_type": "nemotron_h", "hybrid_override_pattern": nano.hybrid_layer_pattern, "num_hidden_layers": 52,
        "hidden_size": 2688, "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128,
        "intermediate_size": 1856, "max_position_embeddings": 262144, "vocab_size": 131072, "mamba_num_heads": 64,
        "mamba_head_dim": 64, "ssm_state_size": 128, "n_groups": 8, "n_routed_experts": 128, "num_experts_per_tok": 6,
        "moe_intermediate_size": 1856, "moe_shared_expert_intermediate_size": 3712, "n_shared_experts": 1,
    }  # fmt: skip
    read = model(tmp_path, fields)
    assert read == replace(nano, seq_length=262144)
    assert model(tmp_path, {**fields, "moe_latent_size": 512}).moe_latent_size == 512
    assert model(tmp_path, {**fields, "mtp_hybrid_override_pattern": "*E"}).mtp_hybrid_override_pattern == "*E"
    with pytest.raises(UserError, match="does not say mamba_num_heads"):
        model(tmp_path, {k: v for k, v in fields.items() if k != "mamba_num_heads"})
    with pytest.raises(UserError, match="--hybrid-layer-pattern has 4 layers, --num-layers is 52"):
        model(tmp_path, {**fields, "hybrid_override_pattern": "ME*E"})
