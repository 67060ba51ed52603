"""Fields of a Hugging Face configuration: read, refused, or named where they are left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vtrain_sim.commands.sim import app
from vtrain_sim.errors import UserError
from vtrain_sim.inputs.huggingface import left_out, read_config
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


@pytest.mark.parametrize(
    ("fields", "slides"),
    [
        ({"model_type": "mistral", "sliding_window": 4096}, True),
        ({"model_type": "mistral", "sliding_window": None}, False),
        ({"model_type": "mixtral", "sliding_window": 8192}, False),
        ({"model_type": "qwen2", "sliding_window": 4096}, False),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": True}, True),
        ({"model_type": "llama", "sliding_window": 4096}, False),
    ],
)
def test_sliding_windows(tmp_path: Path, fields: dict[str, Any], slides: bool) -> None:
    if slides:
        with pytest.raises(UserError, match="sliding_window is 4096: attention to the last tokens alone"):
            model(tmp_path, {**BASE, **fields})
    else:
        assert model(tmp_path, {**BASE, **fields}).seq_length == 8192


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({**DEEPSEEK, "n_shared_experts": "2"}, "n_shared_experts is '2': it takes a whole number"),
        ({**BASE, "model_type": "llama", "hidden_size": 512.5}, "hidden_size is 512.5: it takes a whole number"),
        ({**BASE, "model_type": "llama", "num_hidden_layers": True}, "num_hidden_layers is True"),
        ({**BASE, "model_type": "llama", "num_hidden_layers": -1}, "--num-layers is -1"),
        ({**QWEN, "num_hidden_layers": 10**9}, "more than any model has"),
        ({**QWEN, "decoder_sparse_step": 7}, "no layer of them"),
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


def test_files_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = written(tmp_path, {**BASE, "model_type": "llama"})
    plain = read_config(path)
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    assert read_config(path) == plain
