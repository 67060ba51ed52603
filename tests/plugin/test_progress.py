"""Benchmarks say how far they are on a terminal, and nothing elsewhere."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vtrain_plugin.bench.progress import progress

TESTS = str(Path(__file__).resolve().parents[1])
SIZES = ("--hidden-size", "64", "--num-attention-heads", "8", "--seq-length", "32", "--vocab-size", "512")
VERBS = {
    "ops": (*SIZES, "--seconds", "0"),
    "rank": (
        *("--world-size", "4", "--num-layers", "2", *SIZES, "--warmup", "1", "--steps", "1"),
        *("--prelude", "support.cpu_shims"),
    ),
    "collectives": ("--sizes", "4096", "--ops", "all_reduce", "--repeats", "3", "--no-pin"),
}
SAYS = {
    "ops": ("attention", "optimizer"),
    "rank": ("tp 1, micro batch size 1 (1 of 1): building", "tp 1, micro batch size 1 (1 of 1): training"),
    "collectives": ("compute, alone and together", "all_reduce, 2 ranks over 1 nodes"),
}


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, **options: bool) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with progress(3, **options) as tell:
        for piece in ("one", "two", "three"):
            tell(piece)
    return stream.getvalue()


def test_pieces_are_told_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(Terminal(), monkeypatch)
    assert all(piece in text for piece in ("one", "two", "three"))
    assert re.search(r"one.*0/3.*two.*1/3.*three.*2/3", text, re.DOTALL)


def test_nothing_is_told_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(io.StringIO(), monkeypatch) == ""
    assert shown(Terminal(), monkeypatch, shown=False) == ""


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_every_benchmark_has_a_bar(tmp_path: Path, verb: str) -> None:
    ours, theirs = pty.openpty()
    paths = os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "200"}
    done = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "vtrain_plugin.cli", verb, "--out", str(tmp_path), *VERBS[verb]],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the last process that could write has ended
            break
        if not part:
            break
        seen += part
    assert done.wait(60) == 0, seen.decode()[-3000:]
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())
    for word in SAYS[verb]:
        assert word in text
