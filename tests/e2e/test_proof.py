"""Projections of configurations that were not run, against real runs of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from e2e.interference import Interference, watched
from e2e.proof import CASES, Measured, Outcome, Proof, judged, mean_absolute_error, verdict


@pytest.mark.e2e
def test_projected_configurations_match_real_runs(tmp_path: Path) -> None:
    outcomes = Proof(tmp_path, print).compare()
    for outcome in outcomes:
        print(f"{outcome.case.name}: {outcome.projected_s:.3f} s, {outcome.measured_s:.3f} s, {outcome.error:+.1%}")
    undisturbed = judged(outcomes)
    if not undisturbed:
        pytest.skip(verdict(outcomes)[-1])
    assert mean_absolute_error(undisturbed) <= 0.08
    assert max(abs(o.error) for o in undisturbed) <= 0.15


def outcome(
    measured_s: float, before_s: float, after_s: float, others: float | None = 0.0, switches: float = 1.0
) -> Outcome:
    """A case that is projected to take 1 s where the base run takes 2 s."""
    calm, met = Interference(0.0, 0.0, 1.0), Interference(others, others, switches)
    around = Measured(before_s, calm), Measured(after_s, calm)
    return Outcome(CASES[0], 1.0, 0.9, 1.1, Measured(measured_s, met), 2.0, *around)


def test_a_slower_machine_is_no_error() -> None:
    twice_as_slow = outcome(2.0, 4.0, 4.0)
    assert twice_as_slow.drift == pytest.approx(1.0)
    assert twice_as_slow.error == pytest.approx(0.0)
    assert outcome(1.1, 2.0, 2.0).error == pytest.approx(1 / 1.1 - 1)
    assert verdict([twice_as_slow, twice_as_slow]) == ["mean absolute error: 0.0%"]


def test_ranks_that_make_way_for_each_other_disturb_nothing() -> None:
    assert outcome(1.0, 2.0, 2.0, switches=500.0).disturbed_by == []


@pytest.mark.parametrize(
    ("disturbed", "word"),
    [
        (outcome(1.0, 2.0, 2.5), "the base run took 2.00 s before it and 2.50 s after"),
        (outcome(1.0, 2.0, 2.0, others=0.4), "other processes had 40% of the CPUs"),
        (outcome(1.0, 2.0, 2.0, others=None, switches=500.0), "500 involuntary context switches a second"),
    ],
)
def test_a_busy_machine_is_said_to_be_one(disturbed: Outcome, word: str) -> None:
    assert word in "; ".join(disturbed.disturbed_by)
    *reasons, last = verdict([disturbed, disturbed, outcome(1.0, 2.0, 2.0)])
    assert last.startswith("TOO BUSY TO JUDGE: 2 of 3 runs were disturbed")
    assert len(reasons) == 2
    calm = [outcome(1.0, 2.0, 2.0)] * 2
    assert verdict([disturbed, *calm])[-1] == "mean absolute error of 2 undisturbed runs: 0.0%"


def test_other_work_is_seen() -> None:
    with watched() as calm:
        subprocess.run([sys.executable, "-c", "sum(range(10**6))"], check=True)
    assert calm.interference is not None
    if calm.interference.others is None:
        pytest.skip("this kernel has no /proc/stat")
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        with watched() as busy:
            time.sleep(1.0)
        other.kill()
    assert busy.interference is not None
    assert busy.interference.others is not None
    assert busy.interference.others > 0.1 / (os.cpu_count() or 1)
