"""Executors: every task has one answer, whoever runs it, and whatever becomes of its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from vtrain_sim.decide.executors import RETRIES, Executor, GivenUp, Workers, names, register
from vtrain_sim.errors import SpecError, UserError

TWO = Workers(processes=2)


def times(factor: int, task: int) -> tuple[int, int]:
    """A product, and the process that computed it."""
    print("computing")
    return factor * task, os.getpid()


def dying(place: Path, task: int) -> int:
    """Its process dies at the first attempt at the second task, and always at the task 9."""
    with (place / str(task)).open("a") as stream:
        stream.write(".")
    if task == 9 or (task == 1 and (place / "1").stat().st_size == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return task


class Strange(Exception):
    """An exception that cannot be pickled."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__("strange")


def refusing(task: str) -> str:
    """Raises what the task says."""
    if task == "user":
        raise SpecError("it is too much")
    if task == "strange":
        raise Strange(1, 2)
    return task


def test_every_task_has_its_answer_and_stdout_stays_empty(capfd: pytest.CaptureFixture[str]) -> None:
    answers = dict(TWO.map(partial(times, 3), range(20)))
    assert {index: product for index, (product, _) in answers.items()} == {index: 3 * index for index in range(20)}
    processes = {process for _, process in answers.values()}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert capfd.readouterr().out == ""


def counting(before: list[int], task: int) -> tuple[int, int]:
    """The process, and the tasks that came to it with the same list."""
    before.append(task)
    return os.getpid(), len(before)


def test_what_the_function_holds_serves_all_tasks_of_a_process() -> None:
    seen = [answer for _, answer in TWO.map(partial(counting, []), range(12))]
    for process in {process for process, _ in seen}:
        counts = [count for other, count in seen if other == process]
        assert sorted(counts) == list(range(1, len(counts) + 1))


def test_one_at_a_time_is_here() -> None:
    assert dict(Workers(processes=1).map(partial(times, 3), [2]))[0] == (6, os.getpid())
    assert dict(TWO.map(partial(times, 3), [2]))[0] == (6, os.getpid())
    assert not list(TWO.map(partial(times, 3), []))


def test_the_task_of_a_process_that_died_runs_again(tmp_path: Path) -> None:
    assert sorted(TWO.map(partial(dying, tmp_path), [0, 1, 2, 3])) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert [len((tmp_path / str(task)).read_text()) for task in range(4)] == [1, 2, 1, 1]


def test_a_task_whose_process_always_dies_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(GivenUp, match=rf"after {RETRIES + 1} attempts \(its process was ended by signal 9\)") as raised:
        list(TWO.map(partial(dying, tmp_path), [0, 9]))
    assert raised.value.index == 1
    assert len((tmp_path / "9").read_text()) == RETRIES + 1


def test_what_the_function_raises_is_raised_here() -> None:
    with pytest.raises(SpecError, match="it is too much"):
        list(TWO.map(refusing, ["good", "user"]))
    with pytest.raises(RuntimeError, match="Strange: strange") as raised:
        list(TWO.map(refusing, ["good", "strange"]))
    assert "in refusing" in str(raised.value.__cause__)


def test_a_script_needs_no_guard_of_its_own(tmp_path: Path) -> None:
    """Processes do not run the user's script again."""
    script = tmp_path / "script.py"
    script.write_text(
        "import math\nfrom vtrain_sim.decide.executors import Workers\n"
        "print(sorted(Workers(processes=2).map(math.sqrt, [1, 4])))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[(0, 1.0), (1, 2.0)]\n", "")


def test_ray_gives_the_same(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.raises(UserError, match="vtrain must be installed"):  # it does not find this module
        list(Workers("ray").map(refusing, ["good"]))
    found = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False, runtime_env=found)
    try:
        workers = Workers("ray", processes=2)
        assert sorted(workers.map(partial(dying, tmp_path), [0, 1, 2, 3])) == [(0, 0), (1, 1), (2, 2), (3, 3)]
        with pytest.raises(SpecError, match="it is too much"):
            list(workers.map(refusing, ["good", "user"]))
        with pytest.raises(GivenUp) as raised:
            list(workers.map(partial(dying, tmp_path), [0, 9]))
        assert raised.value.index == 1
    finally:
        ray.shutdown()


def test_what_means_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"'rey' .did you mean 'ray'.*one of local, ray"):
        Workers("rey")
    with pytest.raises(UserError, match="--address head:1 is that of a Ray cluster"):
        Workers(address="head:1")
    with pytest.raises(UserError, match="--processes is -1"):
        Workers(processes=-1)


def test_another_package_brings_its_own() -> None:
    class Backwards:
        name = "backwards"

        def check(self, processes: int, address: str) -> None:
            pass

        def map(self, work, tasks, processes, address):  # type: ignore[no-untyped-def]
            for index in reversed(range(len(tasks))):
                yield index, work(tasks[index])

    executor: Executor = Backwards()
    register(executor)
    assert "backwards" in names()
    assert list(Workers("backwards").map(str, [1, 2])) == [(1, "2"), (0, "1")]
