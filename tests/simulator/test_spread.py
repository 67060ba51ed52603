"""A run of a thousand ranks on one screen: counts, quantiles and who stands out; machines still get all."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pytest
from rich.console import Console

from simulator.synthetic import rank_row, run_row
from vtrain_schemas import arrow_schema
from vtrain_schemas.layout import file_path
from vtrain_sim.catalog import Catalog
from vtrain_sim.catalog.results import RunDetail
from vtrain_sim.catalog.spread import as_ranges, device_spread, slowest_ranks, step_spread
from vtrain_sim.ingest.table_file import write_tables
from vtrain_sim.report.page.document import content
from vtrain_sim.report.terminal.catalog import print_run

RANKS, STEPS, SLOW = 1024, (3, 4, 5), 613


@pytest.fixture(scope="module")
def detail(tmp_path_factory: pytest.TempPathFactory) -> RunDetail:
    """Rank r takes r us more than a second for a step, and one rank a fifth more; ranks 77 to 79 wrote nothing."""
    place = tmp_path_factory.mktemp("big")
    ranks = [rank for rank in range(RANKS) if rank not in (77, 78, 79)]
    steps, kernels = [], []
    for rank in ranks:
        duration = 1_000_000_000 + 1000 * rank + (200_000_000 if rank == SLOW else 0)
        common = {"run_id": "big", "rank": rank}
        steps += [
            {**common, "step": step, "start_ns": step * 2 * 10**9, "duration_ns": duration, "tokens": 8}
            | {"peak_allocated_bytes": (10 << 30) + rank}
            for step in STEPS
        ]
        kernels.append(
            {**common, "step": 3, "name": "gemm", "start_ns": 1, "duration_ns": duration, "kind": "gemm", "device": 0}
        )
    tables = {
        "runs": [run_row("big", world_size=RANKS)],
        "ranks": [{**rank_row("big", r), "host": f"node{r // 8:03d}", "pp_rank": r // 256} for r in ranks],
        "steps": steps,
        "kernels": kernels,
    }
    made = ((name, pa.Table.from_pylist(rows, schema=arrow_schema(name))) for name, rows in tables.items())
    write_tables(made, {name: place / file_path("big", name, 0) for name in tables})
    catalog = Catalog(place / "c.duckdb")
    catalog.add([str(place)])
    return RunDetail("big", catalog.show("big"))


def test_a_thousand_ranks_fit_on_a_screen(detail: RunDetail) -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    print_run(detail, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) < 75
    assert max(map(len, lines)) <= 80
    text = [" ".join(line.split()) for line in lines]
    assert "ranks 1,021: 0-76, 80-1023" in text
    assert "hosts 128: node000 to node127" in text
    assert "3 1,021 1.000 s 1.001 s 1.001 s 1.201 s 613 10.00 GiB" in text
    assert "613 node076 2 3 +20.0%" in text
    assert "compute 1.000 s 1.001 s 1.001 s 1.201 s 613" in text
    assert "problem: 3 of 1024 ranks are missing: 77, 78, 79" in text


def test_machines_get_all_rows(detail: RunDetail) -> None:
    document = json.loads(json.dumps(detail.to_dict()))
    assert [len(document[name]) for name in ("ranks", "steps", "gpu")] == [1021, 3063, 1021]
    assert len(detail.rows()) == 3063


def test_tables_and_the_page_of_many_ranks_are_their_spread(detail: RunDetail) -> None:
    tables = detail.tables()
    assert [(row["step"], row["ranks"], row["longest_rank"]) for row in tables["steps"]] == [
        ("3", 1021, 613),
        ("4", 1021, 613),
        ("5", 1021, 613),
    ]
    assert {row["part"]: row["most_rank"] for row in tables["time on the device"]}["compute"] == SLOW
    sections = {section.title: section for section in content(detail).sections}
    assert len(sections["Steps"].rows) == 3
    assert len(sections["Time on the device"].rows) == 6


def test_of_many_steps_the_longest_are_named() -> None:
    steps = [
        {"rank": 0, "step": step, "duration_ns": 100 + (900 if step == 77 else step), "peak_allocated_bytes": None}
        for step in range(200)
    ]
    spread = step_spread(steps)
    assert [row["step"] for row in spread] == ["all 200", "77", "199", "198", "197", "196"]
    assert (spread[0]["shortest_ns"], spread[0]["longest_ns"], spread[0]["ranks"]) == (100, 1000, 1)
    assert slowest_ranks(steps, []) == []


def test_quantiles_are_over_all_ranks() -> None:
    steps = [{"rank": r, "step": 0, "duration_ns": 10 * r, "peak_allocated_bytes": 1} for r in range(101)]
    (row,) = step_spread(steps)
    assert (row["shortest_ns"], row["median_ns"], row["p90_ns"], row["longest_ns"]) == (0, 500, 900, 1000)
    parts = ("window", "compute", "exposed_communication", "overlapped_communication", "exposed_memory", "idle")
    devices = [{"rank": r, **{f"{part}_ns": r for part in parts}} for r in range(101)]
    assert {row["p90_ns"] for row in device_spread(devices)} == {90}


def test_numbers_as_ranges() -> None:
    assert as_ranges([3, 1, 2, 8, 2]) == "1-3, 8"
    assert as_ranges(range(0, 1024, 8)) == "0, 8, 16, 24, 32, 40, 48, 56, ... 1016"
    assert as_ranges([]) == ""
