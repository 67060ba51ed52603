"""Runs of many files: they are read by name, judged once, and merged."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simulator.synthetic import rank_row, run_row
from vtrain_schemas import arrow_schema
from vtrain_schemas.layout import file_path
from vtrain_sim.catalog import Catalog, CatalogError, compaction, scan
from vtrain_sim.catalog import catalog as indexed
from vtrain_sim.commands import catalog as command
from vtrain_sim.errors import UserError

RANKS = 40
STEPS = 2
TABLES = ("steps", "spans", "ranks", "runs")


def step_row(run: str, rank: int, step: int) -> dict[str, object]:
    return {"run_id": run, "rank": rank, "step": step, "start_ns": 10**18 + step, "duration_ns": 1000 + rank}


def span_row(run: str, rank: int, step: int) -> dict[str, object]:
    mlp = {"span_id": step, "name": "mlp", "kind": "mlp", "phase": "forward", "self_ns": 7 + rank}
    return {**step_row(run, rank, step), **mlp}


def put(
    root: Path, table: str, rank: int, part: int | None, rows: list[dict[str, object]], age_s: float = 7200
) -> Path:
    path = root / file_path(str(rows[0]["run_id"]), table, rank, part)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=arrow_schema(table)), path)
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def write_ranks(root: Path, run: str, ranks: int = RANKS) -> None:
    """A part per step, as captures wrote them once and as a killed one leaves them."""
    put(root, "runs", 0, None, [run_row(run, world_size=ranks)])
    for rank in range(ranks):
        put(root, "ranks", rank, None, [rank_row(run, rank)])
        for step in range(STEPS):
            put(root, "steps", rank, step, [step_row(run, rank, step)])
            put(root, "spans", rank, step, [span_row(run, rank, step)])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_ranks(tmp_path / "p", "a")
    write_ranks(tmp_path / "p", "b", 3)
    Catalog(tmp_path / "c.duckdb").add([str(tmp_path / "p")])
    return tmp_path


def contents(catalog: Catalog) -> dict[str, list[dict[str, object]]]:
    return {
        table: sorted(catalog.sql(f"SELECT * FROM {table}").to_pylist(), key=lambda row: json.dumps(row, default=str))
        for table in TABLES
    }


def files_of(place: Path, run: str) -> list[Path]:
    return sorted((place / f"p/run_id={run}").rglob("*.parquet"))


def test_a_rank_is_asked_for_and_the_files_of_others_are_not_opened(place: Path) -> None:
    catalog = Catalog(place / "c.duckdb")
    query = "SELECT sum(duration_ns) AS ns FROM steps WHERE run_id = 'a' AND rank = 3"
    with catalog.reading() as connection:
        ((_, plan),) = connection.execute(f"EXPLAIN ANALYZE {query}").fetchall()
        ((ns,),) = connection.execute(query).fetchall()
    assert ns == STEPS * 1003
    assert f"Total Files Read: {STEPS}" in " ".join(plan.split())


def test_whole_runs_are_read_as_before(place: Path) -> None:
    catalog = Catalog(place / "c.duckdb")
    rows = catalog.sql("SELECT run_id, rank, step, duration_ns FROM steps ORDER BY ALL").to_pylist()
    expected = [
        {"run_id": run, "rank": rank, "step": step, "duration_ns": 1000 + rank}
        for run, ranks in (("a", RANKS), ("b", 3))
        for rank in range(ranks)
        for step in range(STEPS)
    ]
    assert rows == expected
    assert {row["run_id"]: row["ranks"] for row in catalog.runs()} == {"a": RANKS, "b": 3}


def test_files_of_different_columns_are_read_together(place: Path) -> None:
    older = place / "p" / file_path("a", "spans", 5, 0)
    table = pq.read_table(older)
    pq.write_table(table.drop_columns(["stream"]).append_column("note", pa.array(["new"])), older)
    catalog = Catalog(place / "c.duckdb")
    catalog.add([str(place / "p")])
    assert catalog.sql("SELECT count(*) AS n, count(stream) AS s FROM spans").to_pylist() == [
        {"n": (RANKS + 3) * STEPS, "s": 0}
    ]


def test_unchanged_files_are_not_opened_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    judge = scan._judge
    monkeypatch.setattr(scan, "_judge", lambda place, info: opened.append(info.path) or judge(place, info))
    catalog = Catalog(place / "c.duckdb")
    changed = put(place / "p", "steps", 1, 0, [step_row("a", 1, 0)], age_s=0)
    report = catalog.add([str(place / "p")])
    assert [path for path in opened if str(path).endswith(".parquet")] == [str(changed)]
    assert report.files_added == 1


def test_rows_of_another_run_are_not_taken_for_those_of_the_directory(place: Path) -> None:
    (place / "p/run_id=b").rename(place / "p/run_id=c")
    report = Catalog(place / "c.duckdb").add([str(place / "p")])
    assert {p.run_id for p in report.problems} == {"c"}
    assert "holds rows of run 'b': its directory must be called run_id=b" in report.problems[0].what


def test_compaction_keeps_every_row(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalog = Catalog(place / "c.duckdb")
    before, runs = contents(catalog), [{**row, "bytes": 0} for row in catalog.runs()]
    assert call(place, "compact") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"a: {1 + RANKS * (1 + 2 * STEPS)} files (")
    assert " merged into 4 (" in said[0]
    assert [path.name for path in files_of(place, "a")] == [
        "ranks=00000-00039.parquet",
        "rank=00000.parquet",
        "ranks=00000-00039.parquet",
        "ranks=00000-00039.parquet",
    ]
    assert contents(catalog) == before
    assert [{**row, "bytes": 0} for row in catalog.runs()] == runs
    assert not [p for p in catalog.check() if "missing" in p.what or "changed" in p.what or "gone" in p.what]
    assert catalog.add([str(place / "p")]).files_added == 0
    assert contents(catalog) == before
    assert call(place, "compact", "a") == 0
    assert capsys.readouterr().out == "a: nothing to merge in its 4 files\n"
    other = Catalog(place / "other.duckdb")
    other.add([str(place / "p")])
    assert contents(other) == before


def call(place: Path, *words: str) -> int:
    with pytest.raises(SystemExit) as left:
        command.main([*words, "-c", str(place / "c.duckdb")])
    return int(left.value.code or 0)


class Stopped(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("point", range(12))
def test_stopped_anywhere_no_row_is_lost_or_doubled(place: Path, point: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """point: how many of the calls below are made before the process is gone; the last ones remove what was merged."""
    catalog = Catalog(place / "c.duckdb")
    before = contents(catalog)
    made = 0

    def stopping(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            nonlocal made
            made += 1
            if made > point:
                raise Stopped
            return real(*arguments, **named)

        return call

    for module, name in (
        (compaction, "write_file"),
        (indexed, "forget"),
        (indexed, "record"),
        (indexed, "create_views"),
        (Path, "unlink"),
    ):
        monkeypatch.setattr(module, name, stopping(getattr(module, name)))
    with pytest.raises(Stopped):
        catalog.compact("b")
    monkeypatch.undo()
    assert contents(catalog) == before
    # Whoever finds it like that adds it, here or to another catalog.
    other = Catalog(place / "other.duckdb")
    for each in (catalog, other):
        each.add([str(place / "p")])
        assert contents(each) == before
    catalog.compact("b")
    assert len(files_of(place, "b")) == 4
    assert contents(catalog) == before


def test_files_that_may_still_grow_are_left(place: Path) -> None:
    put(place / "p", "steps", 1, 7, [step_row("a", 1, 7)], age_s=60)
    catalog = Catalog(place / "c.duckdb")
    catalog.add([str(place / "p")])
    with pytest.raises(
        CatalogError, match=r"may still be captured: rank 1 wrote rank=00001\.part007\.parquet 1 min ago"
    ):
        catalog.compact("a")
    assert catalog.compact("b").files_after == 4


def test_what_changed_since_it_was_added_is_not_merged(place: Path) -> None:
    put(place / "p", "steps", 1, 0, [step_row("a", 1, 0), step_row("a", 1, 9)])
    catalog = Catalog(place / "c.duckdb")
    count = len(files_of(place, "a"))
    with pytest.raises(CatalogError, match="has changed since it was added: add the run again"):
        catalog.compact("a")
    assert len(files_of(place, "a")) == count


def test_a_damaged_file_stays_beside_the_merged_one(place: Path) -> None:
    victim = place / "p" / file_path("a", "steps", 1, 0)
    victim.write_bytes(victim.read_bytes()[:-40])
    os.utime(victim, (then := time.time() - 7200, then))
    catalog = Catalog(place / "c.duckdb")
    catalog.add([str(place / "p")])
    rows = catalog.sql("SELECT count(*) AS n FROM steps WHERE run_id = 'a'").to_pylist()
    catalog.compact("a")
    assert victim.exists()
    assert catalog.sql("SELECT count(*) AS n FROM steps WHERE run_id = 'a'").to_pylist() == rows
    assert any("damaged" in problem.what for problem in catalog.check())


def test_files_of_different_columns_are_merged_apart(place: Path) -> None:
    older = place / "p" / file_path("a", "spans", 5, 0)
    pq.write_table(pq.read_table(older).drop_columns(["stream"]), older)
    os.utime(older, (then := time.time() - 7200, then))
    catalog = Catalog(place / "c.duckdb")
    catalog.add([str(place / "p")])
    before = contents(catalog)
    catalog.compact("a")
    assert contents(catalog) == before
    spans = [path.name for path in files_of(place, "a") if "table=spans" in str(path)]
    assert len(spans) == 2


def test_what_a_merge_that_was_killed_left_is_removed(place: Path) -> None:
    left = place / "p/run_id=a/table=spans/ranks=00000-00039.parquet.99999.tmp"
    fresh = left.with_name("ranks=00000-00039.parquet.88888.tmp")
    for path in (left, fresh):
        path.write_bytes(b"half")
    os.utime(left, (1, 1))
    Catalog(place / "c.duckdb").compact("a")
    assert not left.exists()
    assert fresh.exists()


def test_an_unknown_run_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(place, "compact", "aa") == 2
    assert "there is no run 'aa'" in capsys.readouterr().err


def test_a_full_disk_leaves_everything(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    catalog = Catalog(place / "c.duckdb")
    before, there = contents(catalog), files_of(place, "a")
    monkeypatch.setattr("vtrain_sim.whole_file.os.fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*No space left on device"):
        catalog.compact("a")
    monkeypatch.undo()
    assert not list((place / "p").rglob("*.tmp"))
    assert files_of(place, "a") == there
    assert contents(catalog) == before


def test_an_index_of_an_older_version_is_read_and_brought_up_to_date(place: Path) -> None:
    catalog = Catalog(place / "c.duckdb")
    before, runs = contents(catalog), catalog.runs()
    with duckdb.connect(str(catalog.path)) as connection:
        for column in ("last_rank", "ranks", "columns", "merged"):
            connection.execute(f"ALTER TABLE files DROP COLUMN {column}")
    assert contents(catalog) == before
    assert catalog.runs() == runs
    catalog.add([str(place / "p")])
    assert contents(catalog) == before
    assert catalog.sql("SELECT DISTINCT ranks, merged FROM files").to_pylist() == [{"ranks": 1, "merged": False}]
