"""Which ranks are captured, and when: step numbers, a signal, a file, while training runs."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conftest import SCRIPT, SMALL, run_python
from vtrain_plugin.capture.moments import AtSteps, OnFile, moment_of
from vtrain_plugin.cli import app
from vtrain_schemas.rank_choice import RankChoice, parse_ranks
from vtrain_sim.catalog import Catalog

pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("", set(range(16))),
        ("0", {0}),
        ("0,8,10-12", {0, 8, 10, 11, 12}),
        ("first-of-node", {0, 8}),
        ("first-of-node, 3", {0, 3, 8}),
        ("14-99", {14, 15}),
        ("64", set()),
    ],
)
def test_ranks_of_a_world_of_two_nodes(text: str, chosen: set[int]) -> None:
    assert parse_ranks(text).of_world(16, 8) == chosen


def test_a_choice_of_nothing_is_not_all() -> None:
    assert not RankChoice().includes(0, 0)


def test_captures_at_steps_do_not_overlap() -> None:
    moment = AtSteps((101, 500, 100), "")
    assert moment.next_step(0) == 100
    moment.taken(103)
    assert moment.next_step(103) == 500
    moment.taken(503)
    assert moment.exhausted


def test_a_late_step_is_still_captured() -> None:
    assert moment_of("", 2).next_step(7) == 7


def test_a_request_waits_for_a_step_that_all_ranks_choose() -> None:
    moment = OnFile("unused")
    assert moment.next_step(13) is None
    moment.request()
    assert [moment.next_step(done) for done in (13, 14, 19)] == [20, 20, 20]
    moment.taken(23)
    assert moment.next_step(23) is None
    moment.request()
    # Hooks are installed one step before: not in the step under way.
    assert moment.next_step(30) == 40


def test_a_signal_needs_the_main_thread() -> None:
    problems = []

    def start() -> None:
        try:
            moment_of("SIGUSR2", 0).start()
        except ValueError as error:
            problems.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert problems == ["SIGUSR2 can only be waited for from the main thread"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--ranks", "0;1"], "ranks is '0;1' is no list of ranks"),
        (["--at", "tomorrow"], "at is 'tomorrow' is no moment"),
    ],
)
def test_bad_values_are_one_sentence_and_code_2(tmp_path: Path, options: list[str], sentence: str) -> None:
    command = ["run", "--out", str(tmp_path), *options, "--", "true"]
    result = CliRunner().invoke(app, command)
    done = run_python(["-m", "vtrain_plugin", "--out", str(tmp_path), *options, str(SCRIPT)], check=False)
    assert (result.exit_code, done.returncode) == (2, 2)
    for text in (result.stderr, done.stderr):
        assert sentence in text.strip()
        assert len(text.strip().splitlines()) == 1


def test_ranks_outside_the_world_are_refused(tmp_path: Path) -> None:
    arguments = ["-m", "vtrain_plugin", "--out", str(tmp_path), "--ranks", "64", str(SCRIPT)]
    done = run_python(arguments, env={"WORLD_SIZE": "8"}, check=False)
    assert done.returncode == 2
    assert done.stderr == "vtrain_plugin: ranks is '64': the world of 8 has ranks 0 to 7\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at", "steps", "ask", "captured"),
    [
        ("1,4", 7, "", [[1, 2], [4, 5]]),
        ("SIGUSR2", 33, "3,25", [[10, 11], [30, 31]]),
        ("file:{}", 24, "3,14", [[10, 11], [20, 21]]),
    ],
)
def test_captures_while_training_runs(tmp_path: Path, at: str, steps: int, ask: str, captured: list[list[int]]) -> None:
    script = str(Path(__file__).with_name("moments_script.py"))
    out = tmp_path / "out"
    done = run_python([script, str(out), at.format(tmp_path / "now"), str(steps), ask])
    assert "same losses: True hooks: [] restored: True" in done.stdout
    assert ("alive" in done.stdout) == at.startswith("SIG")
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([str(out)])
    rows = catalog.sql("SELECT list(step ORDER BY step) AS steps FROM steps GROUP BY run_id ORDER BY 1").to_pylist()
    assert [row["steps"] for row in rows] == captured
    parameters = catalog.sql("SELECT DISTINCT parameters FROM ranks").to_pylist()
    assert len(parameters) == 1, "counted once, however many captures"


@pytest.mark.slow
def test_chosen_ranks_alone_are_captured_and_none_is_missing(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(SCRIPT), *SMALL]
    options = ["--out", out, "--run-id", "r", "--ranks", "1", "--warmup", "1", "--steps", "1"]
    run_python(["-m", "vtrain_plugin.cli", "run", *options, "--", *command])
    catalog = Catalog(tmp_path / "c.duckdb")
    assert not catalog.add([out]).problems
    assert not list(catalog.check())
    shown = catalog.show("r")
    assert shown["run"]["chosen_ranks"] == "1"
    assert [rank["rank"] for rank in shown["ranks"]] == [1]
