"""Every command that works on a job takes a launch script, a spec, a Hugging Face model and a captured run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from simulator.api.workplace import furnish
from vtrain_sim.commands.sim import app
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.lookup import find_model

CLUSTER = ("--cluster", "dgx-a100-80gb")
BATCH = ("--global-batch-size", "16")
SOURCES = {
    "script": (*CLUSTER, "--megatron-args", "train.sh"),
    "spec": ("--spec", "job.yaml"),
    "config.json": (*CLUSTER, "--model", "config.json", "--num-gpus", "8", *BATCH),
    "run": ("--catalog", "vtrain.duckdb", "--run", "base"),
}
LAYOUT = ("--micro-batch-size", "1")
COMMANDS = {
    "project": LAYOUT,
    "sweep": ("--vary", "mbs=1,2", *LAYOUT),
    "timeline": ("--out", "trace.json.gz", *LAYOUT),
    "compare": LAYOUT,
    "explain": LAYOUT,
    "plan": (),
}
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "intermediate_size": 4096,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_takes_a_source(command: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    sides = ("base", "mbs=2") if command == "compare" else ()
    done = CliRunner().invoke(app, [command, *sides, *SOURCES[source], *COMMANDS[command], "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "schema" in json.loads(done.stdout)


def test_the_folder_of_a_model_needs_no_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("my-model", "llama3-8b", "empty"):
        (tmp_path / folder).mkdir()
    for folder in ("my-model", "llama3-8b"):
        (tmp_path / folder / "config.json").write_text(json.dumps(CONFIG))
    assert find_model("my-model") == find_model("./my-model")
    assert find_model("llama3-8b") == presets.model("llama3-8b") != find_model("./llama3-8b")
    with pytest.raises(UserError, match="there is no model 'empty'"):
        find_model("empty")
    jobs = [*CLUSTER, "--num-gpus", "8", "--jobs", "1", "--models", "my-model"]
    assert CliRunner().invoke(app, ["schedule", *jobs]).exit_code == 0


def test_a_side_that_is_a_file_is_said_as_it_was_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    done = CliRunner().invoke(app, ["compare", "train.sh", "job.yaml", *CLUSTER])
    assert done.exit_code == 0, (done.output, done.exception)
    read = [line for line in done.stderr.splitlines() if "read as:" in line]
    assert [line.partition(" read as: ")[0] for line in read] == ["train.sh", "job.yaml"]
    assert "24 layers" in read[0]
