"""Whatever is typed and whatever stands in the files: an answer of finite numbers, or one sentence.

``VTRAIN_FUZZ_CASES`` says how many cases, ``VTRAIN_FUZZ_SEED`` where they begin; a failure names its case.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import math
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import pytest
import typer

from simulator.api.workplace import furnish
from simulator.fuzz.cases import MAKERS
from vtrain_sim.commands import catalog, sim
from vtrain_sim.decide.study import read_study, run_study

CASES = int(os.environ.get("VTRAIN_FUZZ_CASES", "6000"))
SEED = int(os.environ.get("VTRAIN_FUZZ_SEED", "0"))
# Longer than any case takes, on a busy machine too.
LIMIT_S = 30
PARTS = 10
_MAINS = {"vtrain-sim": sim.main, "vtrain-catalog": catalog.main}


class Hang(BaseException):
    """A case that does not end; no handler of errors catches it."""


@dataclass(frozen=True)
class Answer:
    """What a command line left behind."""

    code: int
    out: str
    err: str


def call(program: str, words: list[str]) -> Answer:
    """Run a command line in this process."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise Hang

    out, err = io.StringIO(), io.StringIO()
    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                _MAINS[program](words)
            except SystemExit as left:
                return Answer(int(left.code or 0), out.getvalue(), err.getvalue())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    raise AssertionError("a command line leaves with an exit code")


def constant(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


def check(words: list[str], answer: Answer) -> None:
    """An answer or one sentence."""
    assert answer.code in (0, 2)
    assert "Traceback" not in answer.err
    said = [line for line in answer.err.splitlines() if line.startswith(f"{words[0]}")]
    if answer.code == 0:
        assert not said
    else:
        assert len(said) == 1
        sentence = said[0].partition(": ")[2]
        assert len(sentence) > 10
        assert not any(word in sentence for word in ("internal error", "object at 0x", "<class", "NoneType"))
    if "--json" in words:
        document = json.loads(answer.out, parse_constant=constant)
        if document_of(document) == "vtrain.projection/1":
            check_projection(document)
        elif document_of(document) == "vtrain.difference/1":
            total = sum(cause["difference_s"] for cause in document["causes"])
            scale = document["a"]["step_s"] + document["b"]["step_s"]
            assert math.isclose(total, document["difference_s"], rel_tol=1e-6, abs_tol=1e-9 * scale)


def document_of(document: Any) -> str:
    return str(document.get("schema")) if isinstance(document, dict) else ""


def check_projection(answer: Any) -> None:
    """Parts add up, and the time is within its band."""
    assert answer["iteration_time_s"] > 0
    assert all(value >= 0 for value in answer["breakdown_s"].values())
    assert math.isclose(sum(answer["breakdown_s"].values()), answer["iteration_time_s"], rel_tol=1e-6)
    assert answer["iteration_time_low_s"] <= answer["iteration_time_s"] <= answer["iteration_time_high_s"]
    for stage in answer["memory"]["stages"]:
        parts = sum(v for k, v in stage.items() if k.endswith("_bytes") and k != "peak_bytes")
        assert parts == stage["peak_bytes"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a catalog and the results of a study."""
    folder = tmp_path_factory.mktemp("fuzz")
    furnish(folder)
    run_study(read_study(folder / "study.toml"), folder / "study-done")
    return folder


@pytest.fixture(autouse=True)
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Typer reads every command's options at each call, which takes longer than most cases."""
    monkeypatch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))


@pytest.mark.parametrize("part", range(PARTS))
def test_anything_is_answered_or_refused_in_a_sentence(part: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    makers, weights = list(MAKERS), list(itertools.accumulate(MAKERS.values()))
    answered = 0
    for number in range(SEED + part, SEED + CASES, PARTS):
        r = Random(number)
        maker = r.choices(makers, cum_weights=weights)[0]
        words = maker(r, place)
        try:
            answer = call(words[0], words[1:])
        except Hang:
            pytest.fail(f"case {number} ({maker.__name__}) takes more than {LIMIT_S} s: {words}")
        try:
            check(words, answer)
        except (AssertionError, ValueError) as error:
            pytest.fail(f"case {number} ({maker.__name__}): {error}\n{words}\n{answer.code} {answer.err[-1500:]}")
        answered += answer.code == 0
    # Cases that are all refused at once would find nothing.
    assert answered > CASES / PARTS / 10
