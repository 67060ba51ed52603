"""The contract: every field documented, versions handled, views matching their documentation."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from vtrain_schemas import SCHEMA_VERSION, TABLES, SchemaVersionError, arrow_schema, check_version
from vtrain_schemas.layout import check_run_id, file_path, parse_file_name, ranks_path
from vtrain_schemas.reference import schema_reference
from vtrain_schemas.views import create_statements, load_view, views
from vtrain_sim.catalog.files import create
from vtrain_sim.catalog.table_views import create_views

DOCS = Path(__file__).resolve().parents[2] / "docs" / "schema.md"


@pytest.mark.parametrize("name", TABLES)
def test_every_field_has_a_meaning_and_times_and_sizes_a_unit(name: str) -> None:
    for field in arrow_schema(name):
        metadata = field.metadata or {}
        assert metadata[b"doc"], field.name
        if field.name.endswith("_ns"):
            assert metadata[b"unit"] == b"ns"
        if field.name.endswith("bytes"):
            assert metadata[b"unit"] == b"bytes"


def test_schema_carries_its_version() -> None:
    assert arrow_schema("spans").metadata[b"vtrain.schema_version"].decode() == SCHEMA_VERSION


@pytest.mark.parametrize("version", ["1.0", "1.7"])
def test_same_major_version_is_read(version: str) -> None:
    check_version(version)


@pytest.mark.parametrize(
    ("version", "word"),
    [
        ("2.0", "upgrade"),
        ("0.9", "older"),
        ("x", "MAJOR.MINOR"),
        ("1", "MAJOR.MINOR"),
        ("\u0661.0", "MAJOR.MINOR"),
        ("1" * 5000 + ".0", "MAJOR.MINOR"),
    ],
)
def test_other_versions_are_refused_in_one_sentence(version: str, word: str) -> None:
    with pytest.raises(SchemaVersionError, match=word) as caught:
        check_version(version, "file.parquet")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.fixture
def empty_catalog() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    create(connection)
    create_views(connection, ())
    return connection


@pytest.mark.parametrize("view", views(), ids=lambda v: v.name)
def test_view_columns_are_documented(view, empty_catalog) -> None:
    found = [r[0] for r in empty_catalog.execute(f"DESCRIBE {view.name}").fetchall()]
    assert found == list(view.columns)
    assert view.doc
    assert all(view.columns.values())


def test_comments_reach_the_database(empty_catalog) -> None:
    rows = empty_catalog.execute(
        "SELECT comment FROM duckdb_columns() WHERE table_name IN ('steps', 'step_breakdown') AND schema_name = 'main'"
    ).fetchall()
    assert rows
    assert all(comment for (comment,) in rows)


def test_quotes_in_comments_are_escaped() -> None:
    view = load_view("step_breakdown")
    assert any("COMMENT ON VIEW" in s and "''" in s for s in create_statements(view))


def test_reference_documentation_is_current() -> None:
    assert DOCS.read_text() == schema_reference(), "run `make docs`"


def test_file_names_round_trip() -> None:
    def parsed(path: str) -> object:
        return parse_file_name(path.rpartition("/")[2])

    assert parsed(file_path("a", "spans", 12, 3)) == (12, 12, 3)
    assert parsed(file_path("a", "spans", 12, 0)) == (12, 12, 0)
    assert parsed(file_path("a", "spans", 12)) == (12, 12, None)
    assert parsed(ranks_path("a", "spans", 0, 1023)) == (0, 1023, None)
    assert parsed(ranks_path("a", "spans", 3, 3, 1)) == (3, 3, 1)


@pytest.mark.parametrize(
    "name",
    [
        ".rank=00000.parquet.1.tmp",
        ".ranks=00000-00001.parquet.1.tmp",
        "rank=0-1.parquet",
        "ranks=1.parquet",
        "ranks=2-1.parquet",
        "rank=1.part.parquet",
        "rank=1.parquet.tmp",
        "rank=1.parquet\n",
        "rank=2147483648.parquet",
        "ranks=0-99999999999999999999.parquet",
        "rank=1.part2147483648.parquet",
        "rank=\u0663.parquet",
    ],
)
def test_names_that_are_not_of_a_table_are_not_read(name: str) -> None:
    assert parse_file_name(name) is None


@pytest.mark.parametrize("bad", ["", "a/b", "../x", ".hidden", "x" * 101, "a b"])
def test_run_ids_that_cannot_be_directories_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="run id"):
        check_run_id(bad)


def test_arrow_types_survive_an_empty_table() -> None:
    for name in TABLES:
        assert pa.Table.from_pylist([], schema=arrow_schema(name)).schema.equals(arrow_schema(name))
