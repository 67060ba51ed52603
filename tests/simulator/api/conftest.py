"""One furnished directory for all examples."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulator.api.workplace import furnish


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("workplace")
    furnish(place)
    return place


@pytest.fixture
def workplace(furnished: Path) -> Iterator[Path]:
    """The furnished directory, as the current one."""
    before = Path.cwd()
    os.chdir(furnished)
    yield furnished
    os.chdir(before)
