"""``--kernels`` beside other users of torch.profiler: theirs is whole, ours says that it has nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import SCRIPT, SMALL, run_python
from vtrain_plugin.capture.patches import Patches
from vtrain_plugin.capture.profiler_watch import ProfilerWatch

torch = pytest.importorskip("torch")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["before", "prepared", "late", "during"])
def test_ours_never_meets_another_session(tmp_path: Path, how: str) -> None:
    done = run_python([str(Path(__file__).with_name("profilers_script.py")), str(tmp_path), how])
    assert "theirs is whole" in done.stdout
    reason = "began" if how == "during" else "was under way"
    assert f"no kernels are recorded: another torch.profiler session {reason}" in done.stderr
    assert (tmp_path / "run_id=r" / "table=steps" / "rank=00000.parquet").exists()
    assert not (tmp_path / "run_id=r" / "table=kernels").exists()


@pytest.mark.slow
def test_a_training_script_that_profiles_itself_keeps_its_trace(tmp_path: Path) -> None:
    """As Megatron's ``--profile --use-pytorch-profiler`` does."""
    arguments = ["-m", "vtrain_plugin", "--out", str(tmp_path), "--warmup", "1", "--steps", "2", "--kernels"]
    done = run_python([*arguments, str(SCRIPT), *SMALL, "--torch-profile", str(tmp_path)])
    assert "no kernels are recorded" in done.stderr
    assert json.loads((tmp_path / "rank0.json").read_text())["traceEvents"]


def test_a_session_that_is_over_is_not_under_way() -> None:
    def session() -> object:
        return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])

    patches = Patches()
    over, unused = session(), session()
    with over:  # type: ignore[attr-defined]
        pass
    watch = ProfilerWatch(patches)
    try:
        assert not watch.others
        with watch.ours(), session():  # type: ignore[attr-defined]
            assert not watch.others
        with session():  # type: ignore[attr-defined]
            assert watch.others
            late = Patches()
            assert ProfilerWatch(late).others
            late.remove()
        assert not watch.others
        del unused
    finally:
        patches.remove()


OTHER_THREAD = """
import sys, threading
import torch
from plugin import toy_training
import vtrain_plugin

out = sys.argv[1]
training = toy_training.ToyTraining()
calls = [0]

def profile():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as other:
        torch.ones(3) + 1
    print("theirs", len(other.events()))

def communicate():
    calls[0] += 1
    if calls[0] == 6:
        thread = threading.Thread(target=profile)
        thread.start()
        thread.join()

toy_training.communicate = communicate
vtrain_plugin.enable(out=out, warmup=2, steps=2, kernels=True)
training.run(6)
vtrain_plugin.disable()
print("trained")
"""


def test_another_session_in_another_thread_is_survived(tmp_path: Path) -> None:
    """Ours can be stopped by its own thread alone: it is given up, not stopped by the other."""
    tests = Path(__file__).resolve().parents[1]
    done = run_python(["-c", OTHER_THREAD, str(tmp_path)], env={"PYTHONPATH": str(tests)}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "trained" in done.stdout
    assert "another torch.profiler session began" in done.stderr
    assert list(tmp_path.glob("run_id=*/table=spans/*.parquet"))
