"""Pages of every kind, and a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import vtrain as vt
from simulator.page.browser import Browser
from simulator.page.samples import furnished, hostile, samples

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnished(tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="session")
def reports(place: Path) -> dict[str, vt.Report]:
    return {name: make() for name, make in samples(place).items()} | hostile()


@pytest.fixture(scope="session")
def pages(place: Path, reports: dict[str, vt.Report]) -> dict[str, Path]:
    """The file of each report's page."""
    files = {name: place / f"{name}.html" for name in reports}
    for name, file in files.items():
        file.write_text(str(vt.render(reports[name], "html")), encoding="utf-8")
    return files


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    pytest.importorskip("selenium")
    for program in (CHROMIUM, DRIVER):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not there: apt-get install chromium chromium-driver")
    opened = Browser(CHROMIUM, DRIVER, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()
