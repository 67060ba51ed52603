"""Run ids: shared by the ranks of a capture without waiting for any of them, and never by two captures."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from conftest import SCRIPT, SMALL, run_python
from vtrain_plugin.capture.run_id import CaptureId
from vtrain_plugin.capture.sink import claim_run_id
from vtrain_sim.catalog import Catalog

torch = pytest.importorskip("torch")


class _Store:
    """A store whose every other call than the atomic one would wait for another rank."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        assert expected == ""
        return self.values.setdefault(key, desired).encode()


def value(capture: CaptureId) -> str:
    return capture.value(5)


def test_the_first_rank_that_asks_names_the_capture() -> None:
    store = _Store()
    names = {value(CaptureId(0, 2, store)) for _ in range(4)}
    assert len(names) == 1
    # Another step, or another capture of the same processes, is another name.
    assert value(CaptureId(0, 3, store)) not in names
    assert value(CaptureId(1, 2, store)) not in names


def test_the_jobs_own_store_takes_the_atomic_operation() -> None:
    store = torch.distributed.HashStore()
    assert value(CaptureId(0, 2, store)) == value(CaptureId(0, 2, store))


def test_a_store_that_hangs_holds_nobody_up(capsys: pytest.CaptureFixture[str]) -> None:
    release = threading.Event()

    class Hanging:
        def compare_set(self, key: str, expected: str, desired: str) -> bytes:
            release.wait(30)
            return b"late"

    capture = CaptureId(0, 2, Hanging())
    assert not capture.known()
    name = capture.value(0.01)
    release.set()
    assert capture._thread is not None
    capture._thread.join()
    assert capture.known()
    assert capture.value(0) == name != "late"
    assert "no answer in 0.01 s" in capsys.readouterr().err


def test_a_store_that_is_gone_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    class Gone:
        def compare_set(self, key: str, expected: str, desired: str) -> bytes:
            raise RuntimeError("Connection reset by peer")

    assert value(CaptureId(0, 2, Gone()))
    assert "Connection reset by peer" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["local", "memory://claims"])
def test_a_run_id_belongs_to_one_capture(tmp_path: Path, out: str) -> None:
    out = str(tmp_path) if out == "local" else out
    assert claim_run_id(out, "base", "first") == "base"
    assert claim_run_id(out, "base", "first") == "base", "another rank of it"
    assert claim_run_id(out, "base", "second") == "base-second"
    assert claim_run_id(out, "base", "second") == "base-second"
    assert claim_run_id(out, "x" * 100, "first") == "x" * 100
    assert len(claim_run_id(out, "x" * 100, "second")) == 100


def test_a_run_of_an_earlier_version_is_not_added_to(tmp_path: Path) -> None:
    (tmp_path / "run_id=base" / "table=steps").mkdir(parents=True)
    assert claim_run_id(str(tmp_path), "base", "first") == "base-first"


CLAIM = """
import sys, time
from vtrain_plugin.capture.sink import claim_run_id
out, capture, start = sys.argv[1:]
while time.time() < float(start):
    pass
for number in range(100):
    print(claim_run_id(out, f"run{number}", capture))
"""


@pytest.mark.parametrize("captures", [("first", "first"), ("first", "second")])
def test_ranks_that_claim_at_the_same_moment(tmp_path: Path, captures: tuple[str, str]) -> None:
    """Two of one capture always agree, two of different captures never do."""
    start = str(time.time() + 3)
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM, str(tmp_path), capture, start], stdout=subprocess.PIPE, text=True
        )
        for capture in captures
    ]
    one, other = (rank.communicate()[0].split() for rank in ranks)
    assert len(one) == len(other) == 100
    same = [a == b for a, b in zip(one, other, strict=True)]
    assert all(same) if captures[0] == captures[1] else not any(same)


def test_claims_are_made_on_any_filesystem(tmp_path: Path) -> None:
    claim_run_id(str(tmp_path), "base", "first")
    names = [
        i.base_name for i in pafs.LocalFileSystem().get_file_info(pafs.FileSelector(str(tmp_path / "run_id=base")))
    ]
    assert sorted(names) == [".capture-first", ".owner.lock"]


ARMED = """
import os, runpy, sys
rank = os.environ["RANK"]
if rank in os.environ["ARMED"].split(","):
    import vtrain_plugin
    vtrain_plugin.enable(sys.argv[1], warmup=1, steps=2)
    if rank == os.environ.get("FAILING"):
        from vtrain_plugin.capture.session import Session
        Session._open_window = lambda self, step: 1 / 0
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("armed", "failing"), [("1", ""), ("0", ""), ("0,1", "0")])
def test_ranks_armed_without_the_others_hold_nobody_up(tmp_path: Path, armed: str, failing: str) -> None:
    script = tmp_path / "armed.py"
    script.write_text(ARMED)
    flags = ["--tensor-model-parallel-size", "2"]
    env = {"ARMED": armed, "FAILING": failing}
    done = run_python([str(script), str(tmp_path / "out"), str(SCRIPT), *SMALL, *flags], 2, env)
    assert done.stdout.count("iteration 3") == 1
    ranks = sorted(set(armed.split(",")) - {failing})
    files = {path.name for path in (tmp_path / "out").rglob("table=steps/*.parquet")}
    assert {name[len("rank=") :][:5] for name in files} == {f"{int(rank):05d}" for rank in ranks}


@pytest.mark.slow
def test_ranks_share_a_run_id_and_a_reused_one_never_mixes_two_captures(tmp_path: Path) -> None:
    def train(*options: str, expected: Callable[[str], bool] = bool) -> str:
        arguments = ["-m", "vtrain_plugin", "--out", str(tmp_path), "--warmup", "1", "--steps", "1", *options]
        return run_python([*arguments, str(SCRIPT), *SMALL], 2).stderr

    train()
    (first,) = tmp_path.glob("run_id=*")
    assert len(list(first.glob("table=steps/*.parquet"))) == 2, "both ranks, one run"
    train("--run-id", "base")
    stderr = train("--run-id", "base")
    assert "run 'base' is there already" in stderr
    catalog = Catalog(tmp_path / "c.duckdb")
    assert not catalog.add([str(tmp_path)]).problems
    steps = catalog.sql("SELECT run_id, count(*) AS n FROM steps GROUP BY run_id").to_pylist()
    assert [row["n"] for row in steps] == [2, 2, 2]
