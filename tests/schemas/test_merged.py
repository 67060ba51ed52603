"""A merged file says which files it replaces, and a reader ignores those alone."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vtrain_schemas import arrow_schema
from vtrain_schemas.merged import Replaced, ignored, replaced_metadata, replaced_of

PARTS = (Replaced("rank=00003.part000.parquet", 10), Replaced("rank=00003.part001.parquet", 12))


def test_what_is_replaced_survives_a_parquet_file(tmp_path: Path) -> None:
    schema = arrow_schema("steps")
    merged = schema.with_metadata({**(schema.metadata or {}), **replaced_metadata([*reversed(PARTS), PARTS[0]])})
    path = tmp_path / "rank=00003.parquet"
    pq.write_table(pa.Table.from_pylist([], schema=merged), path)
    metadata = pq.read_schema(path).metadata
    assert replaced_of(metadata) == PARTS
    assert json.loads(metadata[b"vtrain.replaces"]) == [
        {"name": "rank=00003.part000.parquet", "bytes": 10},
        {"name": "rank=00003.part001.parquet", "bytes": 12},
    ]
    assert b"vtrain.schema_version" in metadata


def test_a_file_that_is_not_merged_replaces_nothing() -> None:
    assert replaced_of(None) == ()
    assert replaced_of(arrow_schema("steps").metadata) == ()


def test_only_the_same_name_and_size_is_ignored() -> None:
    there = {"rank=00003.parquet": 20, "rank=00003.part000.parquet": 10, "rank=00003.part001.parquet": 13}
    assert ignored(there, PARTS) == {"rank=00003.part000.parquet"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "{}x",
        "[1]",
        '[{"name": "rank=0.parquet"}]',
        '[{"name": "rank=0.parquet", "bytes": "1"}]',
        '[{"name": "rank=0.parquet", "bytes": true}]',
        '[{"name": "rank=0.parquet", "bytes": -1}]',
        '[{"name": "../rank=0.parquet", "bytes": 1}]',
        '[{"name": 3, "bytes": 1}]',
        '[{"name": "rank=0.parquet", "bytes": 1, "more": 1}]',
        "\udcff",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"vtrain\.replaces"):
        replaced_of({b"vtrain.replaces": text.encode(errors="surrogateescape")})
