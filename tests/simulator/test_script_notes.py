"""What commands say about a launch script beside the answer: its name, its vocabulary, and what they do not print."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from vtrain_sim.commands.sim import app
from vtrain_sim.inputs.flag_lists import ignored, numerics
from vtrain_sim.inputs.notes import not_printed

SCRIPT = (
    "torchrun --nproc_per_node 8 pretrain_gpt.py --num-layers 24 --hidden-size 2048 --num-attention-heads 16 "
    "--seq-length 2048 --micro-batch-size 1 --global-batch-size 16 --bf16 --rotary-base 500000 --lr 1e-4 "
    "--glu-linear-offset 1.0 --tokenizer-type HuggingFaceTokenizer"
)
ASSUMED = "the vocabulary is the tokenizer's: 50,257 assumed; give --vocab-size"
LOST = "given, but not among the flags printed, to be kept: --rotary-base, --glu-linear-offset"
BESIDE = "they go beside the job's other arguments"


def run(where: Path, command: str, *options: str, script: str = SCRIPT) -> Result:
    path = where / "pretrain-ours.sh"
    path.write_text(script + "\n")
    words = [command, "--cluster", "dgx-h100", "--megatron-args", str(path), "--no-run-script", *options]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return result


def test_a_model_has_the_name_of_its_script(tmp_path: Path) -> None:
    assert run(tmp_path, "project").stdout.startswith("pretrain-ours.sh, bf16")
    assert " plans of pretrain-ours.sh on dgx-h100 " in run(tmp_path, "plan").stdout


@pytest.mark.parametrize("command", ["project", "plan"])
def test_an_assumed_vocabulary_is_said(tmp_path: Path, command: str) -> None:
    assert ASSUMED in run(tmp_path, command).stderr
    assert "assumed" not in run(tmp_path, command, script=f"{SCRIPT} --vocab-size 32000").stderr


@pytest.mark.parametrize(
    ("command", "options"), [("project", ["--emit-megatron"]), ("plan", []), ("size", ["--days", "1"])]
)
def test_what_printed_flags_lack_is_named(tmp_path: Path, command: str, options: list[str]) -> None:
    result = run(tmp_path, command, *options)
    assert BESIDE in result.stderr
    assert LOST in result.stderr
    assert "--rotary-base" not in result.stdout
    assert BESIDE not in run(tmp_path, "project").stderr


def test_arguments_that_change_numbers_alone_are_among_the_ignored() -> None:
    assert numerics() <= set(ignored())
    assert {"--rotary-base", "--glu-linear-offset", "--layernorm-epsilon"} <= numerics()
    assert len(not_printed(["--lr", "1e-4"])) == 1
    assert not_printed(["--openai-gelu", "--rotary-base=5"])[1].endswith(": --rotary-base, --openai-gelu")
