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
    assert " candidates of pretrain-ours.sh on dgx-h100, " in run(tmp_path, "plan").stdout


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


EXPERTS = "--num-experts 8 --expert-model-parallel-size 8"
NOT_SAID = (
    "note: no --bf16 or --fp16: as in Megatron, 32 bits throughout",
    "note: no --moe-grouped-gemm: as in Megatron, the experts of a rank multiply one after the other",
    "note: no --moe-token-dispatcher-type: as in Megatron, allgather",
)


def test_what_a_script_does_not_say_is_as_in_megatron(tmp_path: Path) -> None:
    bare = f"{SCRIPT.replace(' --bf16', '')} {EXPERTS}"
    said = ("--fp32", "--no-moe-grouped-gemm", "--moe-token-dispatcher-type", "allgather")
    result = run(tmp_path, "project", script=bare)
    assert tuple(line for line in result.stderr.splitlines() if "as in Megatron" in line) == NOT_SAID
    same = run(tmp_path, "project", *said, script=bare)
    assert same.stdout == result.stdout
    assert "as in Megatron" not in same.stderr
    other = run(
        tmp_path, "project", "--bf16", "--moe-grouped-gemm", "--moe-token-dispatcher-type=alltoall", script=bare
    )
    assert other.stdout != result.stdout
    assert "as in Megatron" not in other.stderr


def test_a_spec_says_what_a_script_does_not(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("bf16: true\n")
    result = run(tmp_path, "project", "--spec", str(tmp_path / "job.yaml"), script=SCRIPT.replace(" --bf16", ""))
    assert "; bf16; " in result.stderr
    assert "as in Megatron" not in result.stderr


def test_flags_that_were_printed_are_read_as_the_same_job(tmp_path: Path) -> None:
    for precision in ("--fp32", "--fp16", "--bf16"):
        printed = run(tmp_path, "project", precision, "--emit-megatron", script=SCRIPT.replace(" --bf16", ""))
        (tmp_path / "args.txt").write_text(printed.stdout)
        words = ["project", "--cluster", "dgx-h100", "--num-gpus", "8", "--megatron-args", str(tmp_path / "args.txt")]
        again = CliRunner().invoke(app, words)
        assert f"; {precision[2:]}; " in again.stderr
