"""A catalog of many files, as ratios: against opening the footers, and against the same rows in few files."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.timing import in_turn, seconds
from simulator.test_catalog_many_files import write_ranks
from vtrain_sim.catalog import Catalog

RANKS = 512
# Twice to three times what is measured on an idle machine.
SLOWER_THAN_FOOTERS = 6
SLOWER_THAN_MERGED = 20
AGAIN = 0.6


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_ranks(tmp_path / "p", "wide", RANKS)
    return tmp_path


def test_adding(benchmark, place: Path) -> None:
    """Finding, judging and indexing files against opening each one's footer; and once more, when nothing has changed."""
    catalog = Catalog(place / "c.duckdb")
    files = sorted(str(path) for path in (place / "p").rglob("*.parquet"))

    def add() -> None:
        catalog.path.unlink(missing_ok=True)
        catalog.add([str(place / "p")])

    benchmark.pedantic(add, rounds=1)
    added_s, footers_s = in_turn(add, lambda: [pq.read_schema(path) for path in files], rounds=3)
    again_s = seconds(lambda: catalog.add([str(place / "p")]))
    print(
        f"\n{len(files):,} files: added in {added_s / footers_s:.1f} times the time of their footers, again in "
        f"{again_s / added_s:.2f} of that"
    )
    assert added_s < SLOWER_THAN_FOOTERS * footers_s
    assert again_s < AGAIN * added_s


@pytest.mark.parametrize("table", ["steps", "step_breakdown"])
def test_one_rank_of_many(benchmark, place: Path, table: str) -> None:
    """A query on one rank of a run of a file per rank and step, against the same rows merged."""
    many, merged = Catalog(place / "many.duckdb"), Catalog(place / "merged.duckdb")
    many.add([str(place / "p")])
    write_ranks(place / "q", "wide", RANKS)
    merged.add([str(place / "q")])
    merged.compact("wide")
    query = f"SELECT * FROM {table} WHERE run_id = 'wide' AND rank = 3"

    def ask(catalog: Catalog) -> None:
        assert catalog.sql(query).num_rows == 2

    benchmark.pedantic(lambda: ask(many), rounds=1)
    many_s, merged_s = in_turn(lambda: ask(many), lambda: ask(merged))
    print(f"\n{table} of one of {RANKS} ranks: {many_s / merged_s:.1f} times the time that merged files take")
    assert many_s < SLOWER_THAN_MERGED * merged_s
