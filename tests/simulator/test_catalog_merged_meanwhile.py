"""An index and what others do to its files: merging by a capture, by another catalog, and copies of a run."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simulator.synthetic import rank_row
from simulator.test_catalog_many_files import STEPS, contents, put, step_row, write_ranks
from vtrain_schemas.merged import Replaced, replaced_metadata
from vtrain_sim.catalog import Catalog
from vtrain_sim.catalog import catalog as indexed
from vtrain_sim.errors import Notice

RANKS = 3


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_ranks(tmp_path / "p", "a", RANKS)
    Catalog(tmp_path / "c.duckdb").add([str(tmp_path / "p")])
    return tmp_path


def merge_parts(place: Path, remove: bool) -> None:
    """What a capture does at its end; it may be stopped before it removes the parts."""
    for table in ("steps", "spans"):
        for rank in range(RANKS):
            folder = place / f"p/run_id=a/table={table}"
            parts = sorted(folder.glob(f"rank={rank:05d}.part*.parquet"))
            rows = pa.concat_tables([pq.read_table(part) for part in parts])
            replaced = replaced_metadata(Replaced(part.name, part.stat().st_size) for part in parts)
            merged = folder / f"rank={rank:05d}.parquet"
            pq.write_table(rows.replace_schema_metadata({**rows.schema.metadata, **replaced}), merged)
            os.utime(merged, (then := time.time() - 7200, then))
            for part in parts if remove else ():
                part.unlink()


@pytest.mark.parametrize("remove", [False, True])
@pytest.mark.parametrize("verb", ["compact", "repair"])
def test_what_a_capture_merged_since_takes_the_place_of_its_parts(place: Path, remove: bool, verb: str) -> None:
    catalog, other = Catalog(place / "c.duckdb"), Catalog(place / "other.duckdb")
    before = contents(catalog)
    merge_parts(place, remove)
    catalog.compact("a") if verb == "compact" else catalog.repair()
    assert contents(catalog) == before
    assert not catalog.check()
    for each in (catalog, other):
        each.add([str(place / "p")])
        assert contents(each) == before


def test_another_catalog_merged_the_run(place: Path) -> None:
    catalog, other = Catalog(place / "c.duckdb"), Catalog(place / "other.duckdb")
    other.add([str(place / "p")])
    before = contents(catalog)
    catalog.compact("a")
    with pytest.warns(Notice, match="are gone"):
        assert not other.sql("SELECT * FROM steps").num_rows
    assert "repair" in other.check()[0].what
    other.compact("a")
    assert contents(other) == before


@pytest.mark.parametrize("cleared", [False, True])
def test_a_run_that_is_merged_while_it_is_added_again(
    place: Path, cleared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cleared: what was merged is removed before the index is written, or after."""
    catalog = Catalog(place / "c.duckdb")
    before = contents(catalog)
    scan, clear = indexed.scan, indexed.clear

    def scan_and_merge(where: str, known: object) -> object:
        files = scan(where, known)
        monkeypatch.undo()
        if not cleared:
            monkeypatch.setattr(indexed, "clear", lambda file: 0)
        catalog.compact("a")
        return files

    monkeypatch.setattr(indexed, "scan", scan_and_merge)
    catalog.add([str(place / "p")])
    for file in (place / "p").rglob("ranks=*.parquet"):
        clear(indexed.judge(str(file)))
    assert contents(catalog) == before
    assert not catalog.check()


@pytest.mark.parametrize("how", ["copy", "link"])
@pytest.mark.parametrize("at_once", [False, True])
def test_the_rows_of_a_copy_do_not_count_twice(place: Path, how: str, at_once: bool) -> None:
    copy = place / "p/again" if at_once else place / "q"
    if how == "copy":
        shutil.copytree(place / "p/run_id=a", copy / "run_id=a")
    else:
        copy.mkdir()
        (copy / "run_id=a").symlink_to(place / "p/run_id=a")
    catalog = Catalog(place / ("new.duckdb" if at_once else "c.duckdb"))
    for _ in range(2):
        report = catalog.add([str(place / "p"), str(copy)])
        (problem,) = report.problems
        assert "run a has rank 0 in " in problem.what
        assert [row["step"] for row in catalog.sql("SELECT * FROM steps").to_pylist()].count(0) == RANKS
        assert catalog.sql("SELECT * FROM runs").num_rows == 1
        assert [p.what for p in catalog.check()] == [problem.what]
    if how == "copy":
        # The other one is gone: it is not a copy any more.
        shutil.rmtree(place / "p/run_id=a")
        catalog.repair()
        assert catalog.sql("SELECT * FROM steps").num_rows == RANKS * STEPS
        assert not catalog.check()


def test_ranks_of_a_run_may_be_below_several_directories(place: Path) -> None:
    put(place / "node1", "ranks", RANKS, None, [rank_row("a", RANKS)])
    put(place / "node1", "steps", RANKS, None, [step_row("a", RANKS, step) for step in range(STEPS)])
    catalog = Catalog(place / "c.duckdb")
    assert not catalog.add([str(place / "node1")]).problems
    catalog.compact("a")
    assert not catalog.add([str(place / "node1"), str(place / "p")]).problems
    assert catalog.sql("SELECT * FROM steps").num_rows == (RANKS + 1) * STEPS
