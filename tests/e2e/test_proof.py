"""Projections of configurations that were not run, against real runs of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e.proof import Proof, mean_absolute_error


@pytest.mark.e2e
def test_projected_configurations_match_real_runs(tmp_path: Path) -> None:
    outcomes = Proof(tmp_path, print).compare()
    for outcome in outcomes:
        print(f"{outcome.case.name}: {outcome.projected_s:.3f} s, {outcome.measured_s:.3f} s, {outcome.error:+.1%}")
    assert mean_absolute_error(outcomes) <= 0.08
    assert max(abs(o.error) for o in outcomes) <= 0.15
