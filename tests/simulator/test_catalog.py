"""The catalog: idempotent, honest about damage, read-only."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from simulator.synthetic import rank_row, run_row, write_collectives, write_profile
from vtrain_plugin.capture.sink import Sink
from vtrain_schemas import arrow_schema
from vtrain_sim.catalog import Catalog, CatalogError
from vtrain_sim.errors import UserError


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    out = tmp_path / "profiles"
    write_profile(out)
    write_collectives(out)
    return out


@pytest.fixture
def catalog(tmp_path: Path, profiles: Path) -> Catalog:
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([str(profiles)])
    return catalog


def test_adding_twice_changes_nothing(catalog: Catalog, profiles: Path) -> None:
    before = catalog.sql("SELECT count(*) AS n FROM operators").to_pylist()
    report = catalog.add([str(profiles)])
    assert (report.files_added, report.rows_added) == (0, 0)
    assert report.files_unchanged > 0
    assert catalog.sql("SELECT count(*) AS n FROM operators").to_pylist() == before


def test_a_run_directory_itself_can_be_added(tmp_path: Path, profiles: Path) -> None:
    report = Catalog(tmp_path / "d.duckdb").add([str(profiles / "run_id=base")])
    assert report.runs == ("base",)


def test_damaged_file_is_reported_and_the_rest_is_indexed(catalog: Catalog, profiles: Path) -> None:
    victim = profiles / "run_id=collectives/table=collectives/rank=00001.parquet"
    victim.write_bytes(victim.read_bytes()[:-50])
    report = catalog.add([str(profiles)])
    assert len(report.problems) == 1
    assert "damaged" in report.problems[0].what
    ranks = catalog.sql("SELECT DISTINCT rank FROM collectives").to_pylist()
    assert ranks == [{"rank": 0}]
    assert any("damaged" in p.what for p in catalog.check())


@pytest.mark.parametrize(("self_ns", "found"), [(700, []), (820, []), (900, [108])])
def test_parts_that_exceed_their_step_are_found(tmp_path: Path, self_ns: int, found: list[int]) -> None:
    """A step of 1,000 ns with 180 ns of communication."""
    sink = Sink(str(tmp_path / "p"), "r", 0)
    sink.write("runs", [run_row("r", world_size=1)])
    sink.write("ranks", [rank_row("r", 0)])
    common = {"run_id": "r", "rank": 0, "step": 1, "start_ns": 1}
    sink.write("steps", [{**common, "duration_ns": 1000}])
    span = {"span_id": 1, "name": "layer", "kind": "transformer_layer", "phase": "backward"}
    sink.write("spans", [{**common, **span, "duration_ns": self_ns, "self_ns": self_ns}])
    call = {"op": "all_reduce", "role": "tp", "source": "hook", "bytes": 8, "group_ranks": [0], "sequence": 0}
    sink.write("collectives", [{**common, **call, "is_async": False, "duration_ns": 180, "exposed_ns": 180}])
    catalog = Catalog(tmp_path / "c.duckdb")
    assert not catalog.add([str(tmp_path / "p")]).problems
    sentences = [
        f"the parts of step 1 add up to {share}% of its duration: something is counted twice" for share in found
    ]
    assert [p.what for p in catalog.check()] == sentences


@pytest.mark.parametrize("table", ["operators", "steps", "ranks"])
def test_damage_inside_a_file_is_found_by_check(catalog: Catalog, profiles: Path, table: str) -> None:
    victim = profiles / f"run_id=base/table={table}/rank=00000.parquet"
    data = bytearray(victim.read_bytes())
    for at in range(200, len(data) // 2):
        data[at] ^= 0xFF
    victim.write_bytes(bytes(data))
    assert any(p.run_id == "base" and "damaged" in p.what for p in catalog.check())


def test_missing_ranks_and_unequal_steps_are_found(tmp_path: Path) -> None:
    out = tmp_path / "p"
    for rank, steps in ((0, (1, 2)), (1, (1,))):
        sink = Sink(str(out), "r", rank)
        if rank == 0:
            sink.write("runs", [run_row("r", world_size=4)])
        sink.write("ranks", [rank_row("r", rank)])
        sink.write(
            "steps",
            [{"run_id": "r", "rank": rank, "step": s, "start_ns": s * 1000, "duration_ns": 900} for s in steps],
        )
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([str(out)])
    found = [p.what for p in catalog.check()]
    assert any("2 of 4 ranks are missing: 2, 3" in w for w in found)
    assert any("has steps" in w for w in found)


def test_clocks_that_disagree_are_found(tmp_path: Path) -> None:
    out = tmp_path / "p"
    for rank in (0, 1):
        sink = Sink(str(out), "r", rank)
        if rank == 0:
            sink.write("runs", [run_row("r", world_size=2)])
        sink.write("ranks", [rank_row("r", rank)])
        sink.write(
            "steps",
            [{"run_id": "r", "rank": rank, "step": 1, "start_ns": rank * 10**10, "duration_ns": 10**9}],
        )
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([str(out)])
    assert any("clocks are not synchronised" in p.what for p in catalog.check())


def rewrite(path: Path, version: str, drop: str = "") -> None:
    table = pq.read_table(path)
    if drop:
        table = table.drop_columns([drop])
    pq.write_table(table.replace_schema_metadata({"vtrain.schema_version": version}), path)


def test_older_minor_version_without_a_column_is_read_with_nulls(catalog: Catalog, profiles: Path) -> None:
    rewrite(profiles / "run_id=base/table=steps/rank=00000.parquet", "1.0", drop="tokens")
    assert not catalog.add([str(profiles)]).problems
    assert catalog.sql("SELECT tokens FROM steps").to_pylist() == [{"tokens": None}]


def test_newer_major_version_is_refused_in_one_sentence(catalog: Catalog, profiles: Path) -> None:
    rewrite(profiles / "run_id=base/table=steps/rank=00000.parquet", "2.0")
    (problem,) = catalog.add([str(profiles)]).problems
    assert "newer than" in problem.what
    assert catalog.sql("SELECT * FROM steps").num_rows == 0


def test_foreign_parquet_and_wrong_types_are_refused(catalog: Catalog, profiles: Path) -> None:
    folder = profiles / "run_id=base/table=steps"
    pq.write_table(pa.table({"a": [1]}), folder / "rank=00001.parquet")
    wrong = pa.table({f.name: pa.array(["x"]) for f in arrow_schema("steps")})
    pq.write_table(wrong.replace_schema_metadata({"vtrain.schema_version": "1.0"}), folder / "rank=00002.parquet")
    words = " ".join(p.what for p in catalog.add([str(profiles)]).problems)
    assert "not written by vtrain" in words
    assert "is string, not int32" in words


@pytest.mark.parametrize(
    "query",
    [
        "DROP VIEW steps",
        "CREATE TABLE x (a INT)",
        "INSERT INTO files VALUES (1)",
        "SET enable_external_access = true",
        "ATTACH '/tmp/x.db'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "INSTALL httpfs",
        "COPY (SELECT 1) TO '/tmp/x.csv'",
        "EXPORT DATABASE '/tmp/x'",
        "SELECT * FROM nothing",
        "SELEC 1",
        "",
        "SELECT 1; DROP VIEW steps",
        "PRAGMA memory_limit='1GB'",
        "CALL pragma_version(); COPY steps TO 'x'",
    ],
)
def test_queries_cannot_change_or_reach_anything_else(catalog: Catalog, query: str) -> None:
    with pytest.raises(CatalogError) as caught:
        catalog.sql(query)
    assert "\n" not in str(caught.value)


def test_queries_cannot_write_into_the_profiles(catalog: Catalog, profiles: Path) -> None:
    target = profiles / "run_id=base" / "table=steps" / "rank=00000.parquet"
    before = target.read_bytes()
    with pytest.raises(CatalogError, match="read-only"):
        catalog.sql(f"COPY (SELECT 1 AS a) TO '{target}'")
    assert target.read_bytes() == before


def test_transfer_is_the_minimum_over_the_ranks(catalog: Catalog) -> None:
    rows = catalog.sql(
        "SELECT rank, transfer_ns, wait_ns FROM collective_transfers WHERE op = 'all_reduce' AND bytes = 1024"
    ).to_pylist()
    assert len(rows) == 6
    assert all(r["transfer_ns"] == 51_024 for r in rows)
    assert {r["rank"]: r["wait_ns"] for r in rows} == {0: 0, 1: 10_000}


def test_remote_filesystem(tmp_path: Path) -> None:
    for rank in (0, 1):
        sink = Sink("memory://remote", "far", rank)
        if rank == 0:
            sink.write("runs", [run_row("far", world_size=2)])
        sink.write("ranks", [rank_row("far", rank)])
        sink.write("steps", [{"run_id": "far", "rank": rank, "step": 1, "start_ns": 1, "duration_ns": 7}])
    catalog = Catalog(tmp_path / "c.duckdb")
    assert catalog.add(["memory://remote"]).runs == ("far",)
    assert catalog.sql("SELECT sum(duration_ns)::BIGINT AS ns FROM steps").to_pylist() == [{"ns": 14}]
    assert catalog.sql("SELECT count(*) AS n FROM step_breakdown").to_pylist() == [{"n": 2}]
    assert catalog.show("far")["run"]["run_id"] == "far"
    assert not catalog.check()


@pytest.mark.parametrize(
    ("where", "word"), [("nowhere", "no directory"), (".", "no profile below"), (__file__, "is not a trace")]
)
def test_places_without_profiles_are_refused(tmp_path: Path, where: str, word: str) -> None:
    (tmp_path / "empty").mkdir()
    target = str(tmp_path / "empty") if where == "." else where
    with pytest.raises(UserError, match=word):
        Catalog(tmp_path / "c.duckdb").add([target])
    assert not (tmp_path / "c.duckdb").exists()


def test_file_that_is_not_a_catalog(tmp_path: Path) -> None:
    bad = tmp_path / "bad.duckdb"
    bad.write_bytes(b"x" * 5000)
    with pytest.raises(UserError, match="is not a vtrain catalog"):
        Catalog(bad).sql("SELECT 1")
    with pytest.raises(CatalogError, match="there is no catalog"):
        Catalog(tmp_path / "none.duckdb").runs()


def test_a_catalog_of_an_older_version_is_read_all_the_same(tmp_path: Path) -> None:
    import duckdb

    write_profile(tmp_path / "p")
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([str(tmp_path / "p")])
    connection = duckdb.connect(str(catalog.path))
    for name in ("gpu_breakdown", "gpu_step_breakdown", "kernel_times", "ingest"):
        connection.execute(f"DROP VIEW {name}")
    connection.close()
    assert catalog.show("base")["notes"] == []
    assert catalog.sql("SELECT count(*) AS n FROM gpu_breakdown").to_pylist() == [{"n": 0}]
    assert catalog.sql("SELECT count(*) > 0 AS some FROM operator_times").to_pylist() == [{"some": True}]


def test_unknown_run_has_a_nearest_name(catalog: Catalog) -> None:
    with pytest.raises(CatalogError, match="did you mean 'base'"):
        catalog.show("bsae")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_a_report_and_never_an_exception(tmp_path: Path, data: st.DataObject) -> None:
    out = tmp_path / "fuzz"
    write_profile(out)
    files = sorted(out.rglob("*.parquet"))
    victim = data.draw(st.sampled_from(files))
    content = bytearray(victim.read_bytes())
    cut = data.draw(st.integers(0, len(content)))
    noise = data.draw(st.binary(max_size=40))
    assume(bytes(content[:cut]) + noise != bytes(content))
    victim.write_bytes(bytes(content[:cut]) + noise)
    catalog = Catalog(tmp_path / "f.duckdb")
    report = catalog.add([str(out)])
    assert report.problems
    catalog.check()
    catalog.runs()
