"""Errors of ``vtrain-profile`` are sentences; its help has examples that it understands."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import typer

from vtrain_plugin import capture_options, cli, command_errors
from vtrain_plugin.command_help import EXAMPLES

SIZES = ["--hidden-size", "64", "--num-attention-heads", "4", "--seq-length", "64"]


def call(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and error of a command line."""
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["bogus"], "vtrain-profile: no such command 'bogus'"),
        (["run"], "vtrain-profile run: missing argument"),
        (["ops", "--out", "x", *SIZES[:-1], "inf"], "vtrain-profile ops: invalid value for '--seq-length'"),
        (["ops", "--out", "x", *SIZES, "--dtype", "int3"], "vtrain-profile: --dtype is 'int3': it takes one of"),
        (["collectives", "--out", "x", "--dtype", "int3"], "vtrain-profile: --dtype is 'int3': it takes one of"),
        (["collectives", "--out", "x", "--max-bytes", "-1"], "vtrain-profile collectives: invalid value"),
    ],
)
def test_errors_are_one_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(words, capsys)
    assert (code, out) == (2, "")
    assert err.startswith(sentence)
    assert err.count("\n") == 1


def test_what_nobody_foresaw_is_a_sentence_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**options: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(capture_options, "Settings", fail)
    monkeypatch.delenv(command_errors.TRACEBACK, raising=False)
    code, _, err = call(["run", "--out", "x", "--", "true"], capsys)
    assert code == command_errors.INTERNAL
    assert err.startswith("vtrain-profile: internal error, please report it: KeyError")
    assert err.count("\n") == 1
    monkeypatch.setenv(command_errors.TRACEBACK, "1")
    assert call(["run", "--out", "x", "--", "true"], capsys)[2].startswith("Traceback")


def test_a_rank_needs_a_gpu(tmp_path: Any, capfd: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    pytest.importorskip("megatron.core")
    code, _, err = call(["rank", "--out", str(tmp_path), "--world-size", "8", "--num-layers", "2", *SIZES], capfd)
    assert code == 2
    assert err.splitlines()[-1] == (
        "vtrain-profile: Megatron-Core builds its modules on a CUDA GPU, and torch finds none here"
    )
    assert "Traceback" not in err


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_ends_with_examples_that_are_understood(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call([name, "--help"], capsys)
    for example in EXAMPLES[name]:
        assert "\n".join(f"  {line}" for line in example.splitlines()) in out.partition("Examples:")[2]
        assert max(map(len, example.splitlines())) <= 78
        words = shlex.split(example.replace("\\\n", " "))
        assert words[:2] == ["vtrain-profile", name]
        command: Any = typer.main.get_command(cli.app)
        command.commands[name].make_context(name, words[2:])


def test_every_command_has_examples() -> None:
    command: Any = typer.main.get_command(cli.app)
    assert set(command.commands) == set(EXAMPLES)
