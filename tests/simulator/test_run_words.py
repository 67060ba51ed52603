"""What a run recorded of itself is written for people, and kept as it is for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulator.synthetic import run_row
from vtrain_plugin.capture.sink import Sink
from vtrain_sim.catalog import Catalog
from vtrain_sim.commands import catalog as command
from vtrain_sim.report.run_words import configuration


def test_units_are_in_the_values() -> None:
    row = {
        "created_ns": 1_700_000_000_999_999_999,
        "device_memory_bytes": 80 << 30,
        "plain_interval_ns": [1_000_000, 200_000_000],
        "hosts": ["a", "b"],
        "world_size": 8,
    }
    assert configuration(row) == {
        "created": "2023-11-14 22:13:20 UTC",
        "device_memory": "80.00 GiB",
        "plain_interval": "1.00 ms, 0.200 s",
        "hosts": "a, b",
        "world_size": 8,
    }


def test_show_prints_a_date_and_gives_programs_the_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Sink(str(tmp_path / "p"), "a", 0).write("runs", [run_row("a", created_ns=1_700_000_000_000_000_000)])
    Catalog(tmp_path / "c.duckdb").add([str(tmp_path / "p")])
    for options in ([], ["--json"]):
        with pytest.raises(SystemExit):
            command.main(["show", "a", "-c", str(tmp_path / "c.duckdb"), *options])
    out = capsys.readouterr().out
    assert "2023-11-14 22:13:20 UTC" in out
    assert json.loads(out[out.index("{") :])["run"]["created_ns"] == 1_700_000_000_000_000_000
