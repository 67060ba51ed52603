"""The page of published plans: its figures are those of its commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.published_plans import RUNS, PublishedRun
from support.documentation import ROOT, named

PAGE = "docs/published-plans.md"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The text of the page, and a directory with the cluster files that it shows."""
    where = tmp_path_factory.mktemp("clusters")
    for block in named(PAGE, "toml"):
        first, _, rest = block.text.partition("\n")
        (where / first.removeprefix("# ")).write_text(rest)
    return (ROOT / PAGE).read_text(), where


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_a_row_is_what_is_projected(run: PublishedRun, page: tuple[str, Path]) -> None:
    text, where = page
    assert run.row(where) in text


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_the_commands_of_a_run_are_shown(run: PublishedRun, page: tuple[str, Path]) -> None:
    text, _ = page
    assert run.plan() in text.splitlines()
    assert run.variant or f"$ {run.project()}" in text.splitlines()


def test_a_found_plan_fits_and_has_the_batch_and_the_gpus_of_the_published_one(page: tuple[str, Path]) -> None:
    _, where = page
    for run in RUNS:
        published, found = (run.projected(layout, where) for layout in (run.published, run.found))
        assert found.memory.fits, run.name
        for one in (published, found):
            assert one.configuration.parallel.world_size == run.gpus, run.name
        assert found.configuration.train.global_batch_size == published.configuration.train.global_batch_size
        assert found.configuration.train.precision == published.configuration.train.precision
