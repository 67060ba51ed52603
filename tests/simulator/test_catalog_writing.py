"""Writers and readers of a catalog at a time, a full disk, and ends that nobody planned."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import pytest

from simulator.synthetic import write_profile
from vtrain_sim.catalog import Catalog, database
from vtrain_sim.errors import Notice, UserError

HOLD = """
import sys, time, duckdb
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "reader")
print("held", flush=True)
time.sleep(float(sys.argv[3]))
connection.close()
"""
ADD_WITH_LIMIT = """
import resource, sys
from vtrain_sim.commands.catalog import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
main(["add", sys.argv[2], "-c", sys.argv[1]])
"""


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    write_profile(tmp_path / "p", "a")
    made = Catalog(tmp_path / "c.duckdb")
    made.add([str(tmp_path / "p")])
    return made


def hold(catalog: Catalog, how: str, seconds: float) -> subprocess.Popen[str]:
    """Another program that has the catalog open."""
    words = [sys.executable, "-c", HOLD, str(catalog.path), how, str(seconds)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("how", ["reader", "writer"])
def test_a_second_one_waits(catalog: Catalog, tmp_path: Path, how: str) -> None:
    write_profile(tmp_path / "q", "b")
    expected = ["a"]
    with hold(catalog, how, 3.0):
        if how == "writer":
            with pytest.warns(Notice, match="in use by another program: waiting"):
                runs = catalog.runs()
        else:
            with pytest.warns(Notice, match="in use by another program: waiting"):
                catalog.add([str(tmp_path / "q")])
            runs, expected = catalog.runs(), ["a", "b"]
    assert [run["run_id"] for run in runs] == expected


def test_waiting_ends(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "WAIT_S", 0.3)
    with hold(catalog, "writer", 60) as process:
        with pytest.raises(UserError, match=r"in use by another program for 0\.3 s: try again later"):
            catalog.runs()
        process.kill()


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    names = [f"r{number}" for number in range(6)]
    for name in names:
        write_profile(tmp_path / name, name)
    catalog = Catalog(tmp_path / "c.duckdb")
    failures: list[BaseException] = []

    def add(name: str) -> None:
        try:
            catalog.add([str(tmp_path / name)])
            catalog.runs()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=add, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(run["run_id"] for run in catalog.runs()) == names


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit of file size")
@pytest.mark.parametrize("most", [4096, 100_000])
def test_a_full_disk_leaves_the_old_catalog_and_says_why(catalog: Catalog, tmp_path: Path, most: int) -> None:
    for number in range(40):
        write_profile(tmp_path / "q", f"b{number}")
    for path, before in ((catalog.path, ["a"]), (tmp_path / "new.duckdb", [])):
        words = [sys.executable, "-c", ADD_WITH_LIMIT, str(path), str(tmp_path / "q"), str(most)]
        ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
        assert ended.returncode == 2
        assert ended.stderr.count("\n") == 1
        assert "File too large" in ended.stderr
        if before:
            assert [run["run_id"] for run in Catalog(path).runs()] == before
        assert len(Catalog(path).add([str(tmp_path / "q")]).runs) == 40
        assert len(Catalog(path).runs()) == 40 + len(before)


def test_a_refusal_within_a_transaction_changes_nothing(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise duckdb.IOException("IO Error: No space left on device")

    monkeypatch.setattr("vtrain_sim.catalog.catalog.create_views", fail)
    with pytest.raises(UserError, match=r"cannot write the catalog .*: IO Error: No space left on device; it is as"):
        catalog.remove("a")
    monkeypatch.undo()
    assert [run["run_id"] for run in catalog.runs()] == ["a"]


ADD_IN_PROCESSES = """
import sys
from vtrain_sim.commands.catalog import main
from vtrain_sim.ingest import profiles
if __name__ == "__main__":
    profiles._WORTH_PROCESSES = 0
    main(["add", sys.argv[1], "-c", sys.argv[2], "--processes", "2"])
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_the_end_of_add_leaves_no_process_and_no_folder(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    event = '{"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 1, "tid": 1, "ts": 1, "dur": 1}'
    for rank in (0, 1):
        head = f'{{"distributedInfo": {{"rank": {rank}, "world_size": 2}}, "traceEvents": ['
        (folder / f"rank{rank}.json").write_text(head + ",".join([event] * 1_000_000) + "]}")
    script = tmp_path / "add.py"
    script.write_text(ADD_IN_PROCESSES)
    words = [sys.executable, str(script), str(folder), str(tmp_path / "c.duckdb")]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        workers = wait_for(lambda: members(process.pid, "spawn_main"))
        time.sleep(1.5)
        assert process.poll() is None
        process.send_signal(number)
        code = process.wait(60)
    assert code == {signal.SIGTERM: 143, signal.SIGKILL: -9, signal.SIGINT: 130}[number]
    assert workers
    wait_for(lambda: not any(is_alive(pid) for pid in workers))
    wait_for(lambda: not list((tmp_path / "c-traces").glob(".*")))
    assert not (tmp_path / "c.duckdb").exists()


def wait_for(condition, seconds: float = 30):  # type: ignore[no-untyped-def]
    """The first true value of a condition."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


def members(parent: int, word: str) -> list[int]:
    """Two or more children of a process with a word in their command line."""
    pids = [int(place.name) for place in Path("/proc").glob("[0-9]*") if is_child(place, parent, word)]
    return pids if len(pids) > 1 else []


def is_child(place: Path, parent: int, word: str) -> bool:
    try:
        fields = (place / "stat").read_text().rpartition(")")[2].split()
        return int(fields[1]) == parent and word in (place / "cmdline").read_text()
    except OSError:
        return False


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_a_killed_reading_left_is_removed(tmp_path: Path) -> None:
    import socket

    from simulator.ingest.build import Kineto, training_step
    from vtrain_sim.ingest import ingest

    trace = Kineto()
    training_step(trace)
    trace.write(tmp_path / "trace.json")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = {pid: tmp_path / f"out/.run_id=x.{socket.gethostname()}.{pid}.tmp" for pid in (ended.pid, os.getppid())}
    for path in names.values():
        path.mkdir(parents=True)
    ingest([str(tmp_path / "trace.json")], tmp_path / "out")
    assert {pid: path.exists() for pid, path in names.items()} == {ended.pid: False, os.getppid(): True}
