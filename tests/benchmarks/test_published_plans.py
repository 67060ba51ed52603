"""What the search finds for published training runs, and the regret of their published plans against it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from simulator.published_plans import RUNS
from support.documentation import named
from vtrain_sim.commands import sim


def test_searches_of_published_runs(benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every search of docs/published-plans.md; what it finds is what the page shows."""
    monkeypatch.chdir(tmp_path)
    for block in named("docs/published-plans.md", "toml"):
        Path(block.text.split("\n", 1)[0].removeprefix("# ")).write_text(block.text)
    print(f"\n{'run':36}{'candidates':>12}{'evaluated':>11}{'seconds':>9}{'found':>10}{'regret':>8}")
    for run in RUNS:
        words = [*shlex.split(run.plan())[1:], "--top", "1", "--json"]
        result = json.loads(CliRunner().invoke(sim.app, words).stdout)
        found_s = result["plans"][0]["iteration_time_s"]
        published, shown = (run.projected(layout, tmp_path) for layout in (run.published, run.found))
        print(
            f"{run.name:36}{result['candidates']:12,}{result['evaluated']:11,}{result['elapsed_s']:9.1f}"
            f"{found_s:8.2f} s{published.iteration_time_s / found_s - 1:8.0%}"
        )
        assert found_s == pytest.approx(shown.iteration_time_s, rel=1e-6), run.name
    benchmark.pedantic(lambda: None, rounds=1)
