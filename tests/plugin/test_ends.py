"""A process that was armed writes all that it captured, however it ends, or says why there is nothing."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conftest import run_python

pytest.importorskip("torch")
SCRIPT = str(Path(__file__).with_name("ends_script.py"))


def reports(stderr: str) -> list[str]:
    return [line.removeprefix("vtrain: ") for line in stderr.splitlines() if line.startswith("vtrain: ")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("plain", "nothing captured: no training framework that the plugin knows was imported (known: megatron)"),
        ("evaluation", "nothing captured: no training step of megatron ran"),
        ("inside", "nothing captured: training ended after 1 steps, before a step to capture was over"),
        ("short", "nothing captured: training ended after 1 steps, before a step to capture was over"),
        ("early", "captured 1 of 2 steps"),
        ("destroyed", "captured 2 steps"),
    ],
)
def test_what_was_captured_or_why_nothing(tmp_path: Path, how: str, said: str) -> None:
    done = run_python([SCRIPT, str(tmp_path), how], check=False)
    assert len(reports(done.stderr)) == 1, done.stderr
    assert reports(done.stderr)[0].startswith(said)
    steps = [pq.read_table(file).num_rows for file in tmp_path.rglob("table=steps/rank=00001*.parquet")]
    assert sum(steps) == {"early": 1, "destroyed": 2}.get(how, 0)


def test_a_plain_loop_armed_by_the_environment_says_so(tmp_path: Path) -> None:
    arm = "import vtrain_plugin.autoload, runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    env = {"VTRAIN_OUT": str(tmp_path)}
    done = run_python(["-c", arm, SCRIPT, str(tmp_path), "environment"], env=env)
    (said,) = reports(done.stderr)
    assert said.startswith("nothing captured: no training framework that the plugin knows was imported")
    # A process without torch has nothing to say.
    assert not reports(run_python(["-c", "import vtrain_plugin.autoload"], env=env).stderr)


def test_helpers_of_a_training_process_say_nothing(tmp_path: Path) -> None:
    helper = (
        "import multiprocessing, vtrain_plugin.autoload\n"
        "def work(): import torch\n"
        "if __name__ == '__main__':\n"
        "    child = multiprocessing.get_context('spawn').Process(target=work)\n"
        "    child.start(); child.join(); assert child.exitcode == 0\n"
    )
    script = tmp_path / "helper.py"
    script.write_text(helper)
    assert not reports(run_python([str(script)], env={"VTRAIN_OUT": str(tmp_path)}).stderr)
