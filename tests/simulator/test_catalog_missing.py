"""A file that is gone or damaged costs itself alone, and is said."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simulator.synthetic import write_profile
from vtrain_schemas import arrow_schema
from vtrain_sim.catalog import Catalog, CatalogError, files
from vtrain_sim.commands import catalog as command
from vtrain_sim.errors import Notice

STEPS = "SELECT run_id, count(*) AS n FROM steps GROUP BY 1 ORDER BY 1"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for run in ("a", "b", "c"):
        write_profile(tmp_path / "p", run)
    Catalog(tmp_path / "c.duckdb").add([str(tmp_path / "p")])
    return tmp_path


def call(place: Path, *words: str) -> int:
    with pytest.raises(SystemExit) as left:
        command.main([*words, "-c", str(place / "c.duckdb")])
    return int(left.value.code or 0)


def test_every_verb_works_for_the_other_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = len(list((place / "p/run_id=b").rglob("*.parquet")))
    shutil.rmtree(place / "p/run_id=b")
    write_profile(place / "q", "d")
    said = (
        f"vtrain-catalog: run b: {files} of {files} files are gone or damaged and left out; vtrain-catalog check names"
    )
    for words in (["ls", "--json"], ["show", "a"], ["sql", STEPS, "--format", "csv"], ["schema"], ["show", "b"]):
        assert call(place, *words) == 0
        out, err = capsys.readouterr()
        assert err.count("\n") == 1
        assert err.startswith(said)
        if words[0] == "ls":
            assert {run["run_id"]: run["steps"] for run in json.loads(out)} == {"a": 1, "b": None, "c": 1}
    assert call(place, "check") == 1
    out, _ = capsys.readouterr()
    assert f"b: {files} of {files} files are gone, first {place}/p/run_id=b/" in out
    assert out.count("b: ") == 1
    assert call(place, "add", str(place / "q")) == 0
    capsys.readouterr()
    assert call(place, "sql", STEPS, "--format", "csv") == 0
    out, err = capsys.readouterr()
    assert out.split() == ["run_id,n", "a,1", "c,1", "d,1"]
    assert err.startswith(said)
    assert call(place, "sql", STEPS, "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_files_are_looked_at_once_to_open_and_once_to_judge(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = place / "p/run_id=b/table=steps/rank=00000.parquet"
    looked: list[str] = []
    stat = os.stat
    monkeypatch.setattr(files.os, "stat", lambda path, **how: looked.append(str(path)) or stat(path, **how))
    catalog = Catalog(place / "c.duckdb")
    for verb in (catalog.check, lambda: catalog.show("b")):
        looked.clear()
        verb()
        assert looked.count(str(victim)) == 2
    victim.unlink()
    for verb in (catalog.check, lambda: catalog.show("b")):
        with pytest.warns(Notice) as said:
            verb()
        assert len(said) == 1


def test_repair_and_remove(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(place / "p/run_id=b")
    (place / "p/run_id=c/table=operators/rank=00000.parquet").unlink()
    assert call(place, "repair") == 0
    out, _ = capsys.readouterr()
    assert "nothing is left of run b" in out
    assert "nothing is left of run c" not in out
    for words in (["check"], ["sql", STEPS]):
        call(place, *words)
        assert "gone" not in capsys.readouterr().err
    assert call(place, "remove", "c") == 0
    assert "run c is no longer indexed" in capsys.readouterr().out
    assert [run["run_id"] for run in Catalog(place / "c.duckdb").runs()] == ["a"]
    assert (place / "p/run_id=c/table=steps/rank=00000.parquet").exists()
    assert call(place, "remove", "c") == 2
    assert call(place, "repair", "--json") == 0
    assert json.loads(capsys.readouterr().out)["files_removed"] == 0


@pytest.mark.parametrize("verb", ["remove", "repair"])
def test_no_verb_makes_a_catalog_of_nothing(tmp_path: Path, verb: str) -> None:
    catalog = Catalog(tmp_path / "none.duckdb")
    with pytest.raises(CatalogError, match="there is no catalog"):
        catalog.repair() if verb == "repair" else catalog.remove("a")
    assert not catalog.path.exists()


def test_files_that_come_back_are_read_again(place: Path) -> None:
    catalog = Catalog(place / "c.duckdb")
    run, away = place / "p/run_id=b", place / "away"
    run.rename(away)
    write_profile(place / "q", "d")
    catalog.add([str(place / "q")])
    with pytest.warns(Notice, match="run b"):
        assert catalog.sql(STEPS).num_rows == 3
    away.rename(run)
    assert catalog.sql(STEPS).num_rows == 4
    catalog.add([str(place / "q")])
    assert catalog.sql(STEPS).num_rows == 4
    assert not catalog.check()


def test_a_file_damaged_after_it_was_added_costs_itself(place: Path) -> None:
    victim = place / "p/run_id=b/table=steps/rank=00000.parquet"
    victim.write_bytes(victim.read_bytes()[:-40])
    catalog = Catalog(place / "c.duckdb")
    with pytest.warns(Notice, match="run b: 1 of"):
        assert [r["run_id"] for r in catalog.sql(STEPS).to_pylist()] == ["a", "c"]
    assert any("damaged" in p.what and p.run_id == "b" for p in catalog.check())
    write_profile(place / "q", "d")
    catalog.add([str(place / "q")])
    assert [r["run_id"] for r in catalog.sql(STEPS).to_pylist()] == ["a", "c", "d"]
    (problem,) = catalog.repair().problems
    assert "damaged" in problem.what
    write_profile(place / "p", "b")
    assert catalog.repair().files_updated > 0
    assert catalog.sql(STEPS).num_rows == 4


@pytest.mark.parametrize(
    ("what", "sentence"), [("time", "was written again"), ("rows", "has 0 rows, had 1"), ("bytes", "bytes, had")]
)
def test_check_compares_with_what_was_recorded(place: Path, what: str, sentence: str) -> None:
    victim = place / "p/run_id=b/table=steps/rank=00000.parquet"
    table = pq.read_table(victim)
    if what == "rows":
        pq.write_table(table.slice(0, 0), victim)
    elif what == "bytes":
        pq.write_table(table, victim, compression="none")
    else:
        os.utime(victim, ns=(1, 1))
    (problem,) = (p for p in Catalog(place / "c.duckdb").check() if "changed since it was added" in p.what)
    assert problem.run_id == "b"
    assert sentence in problem.what


def test_remote_files_that_are_gone(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for run in ("far", "near"):
        write_profile(tmp_path / "p", run)
        memory.put(str(tmp_path / f"p/run_id={run}"), f"/gone/run_id={run}", recursive=True)
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add(["memory://gone"])
    assert catalog.sql(STEPS).num_rows == 2
    memory.rm("/gone/run_id=far", recursive=True)
    with pytest.warns(Notice, match="run far"):
        assert [r["run_id"] for r in catalog.sql(STEPS).to_pylist()] == ["near"]
    assert catalog.repair().runs_removed == ("far",)


def test_a_directory_in_the_place_of_a_file_costs_itself(place: Path) -> None:
    victim = place / "p/run_id=b/table=steps/rank=00000.parquet"
    victim.unlink()
    victim.mkdir()
    catalog = Catalog(place / "c.duckdb")
    with pytest.warns(Notice, match="run b: 1 of"):
        assert [r["run_id"] for r in catalog.sql(STEPS).to_pylist()] == ["a", "c"]
    assert catalog.repair().files_removed == 1
    assert [r["run_id"] for r in catalog.sql(STEPS).to_pylist()] == ["a", "c"]


def test_a_file_that_lost_a_column_since_takes_it_from_no_other(place: Path) -> None:
    """Files of the same columns are read together, by the first one's."""
    query = "SELECT run_id, count(layer_number) AS n FROM spans GROUP BY run_id ORDER BY run_id"
    catalog = Catalog(place / "c.duckdb")
    for run in "abc":
        path = place / f"p/run_id={run}/table=spans/rank=00000.parquet"
        path.parent.mkdir(exist_ok=True)
        row = {
            "run_id": run,
            "rank": 0,
            "step": 1,
            "span_id": 1,
            "name": "m",
            "kind": "mlp",
            "phase": "forward",
            "layer_number": 1,
        }
        times = {"start_ns": 1, "duration_ns": 1, "self_ns": 1}
        pq.write_table(pa.Table.from_pylist([{**row, **times}], schema=arrow_schema("spans")), path)
    catalog.add([str(place / "p")])
    first = place / "p/run_id=a/table=spans/rank=00000.parquet"
    pq.write_table(pq.read_table(first).drop_columns(["layer_number"]), first)
    assert catalog.sql(query).to_pylist() == [{"run_id": r, "n": n} for r, n in (("a", 0), ("b", 1), ("c", 1))]


def test_a_file_named_after_another_rank_is_not_read(place: Path) -> None:
    """Ranks are known from the names of files where there are many."""
    path = place / "p/run_id=b/table=steps/rank=00000.parquet"
    path.rename(path.with_name("rank=00004.parquet"))
    (problem,) = Catalog(place / "c.duckdb").add([str(place / "p")]).problems
    assert "holds rows of rank 0" in problem.what
