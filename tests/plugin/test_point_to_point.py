"""Sends and receives are recorded whatever name they are called by, and their functions stay the ones torch compares."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from conftest import run_python

pytest.importorskip("torch")


def test_functions_imported_by_name_work_and_are_recorded() -> None:
    done = run_python([str(Path(__file__).with_name("by_name_script.py"))])
    calls = Counter((op, tuple(ranks), nbytes) for op, ranks, nbytes in json.loads(done.stdout))
    # Three modules send and receive in three ways each, and one batch was made before the capture.
    assert calls == {("send", (0, 1), 16): 10, ("recv", (1, 0), 16): 10}
