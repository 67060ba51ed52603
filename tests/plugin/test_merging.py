"""A rank leaves one file per table; a process that ends at any moment loses and doubles nothing that was written."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import FSSpecHandler

from conftest import SCRIPT, SMALL, run_python
from vtrain_plugin.capture.sink import Sink
from vtrain_plugin.capture.storage import Storage
from vtrain_schemas import arrow_schema
from vtrain_schemas.merged import ignored, replaced_of

TABLES = ("spans", "steps")
STEPS = 3


def rows(table: str, step: int) -> list[dict[str, Any]]:
    common = {"run_id": "r", "rank": 3, "step": step, "duration_ns": 2}
    if table == "steps":
        return [{**common, "start_ns": step}]
    span = {"kind": "layer", "phase": "forward", "self_ns": 1}
    return [
        {**common, **span, "span_id": i, "name": f"layers.{i}", "start_ns": step * 100 + i} for i in range(step + 2)
    ]


def capture(sink: Sink, done: Callable[[], object] = lambda: None) -> None:
    """Three steps, each a part; done: called after each."""
    for step in range(STEPS):
        for table in TABLES:
            sink.write(table, rows(table, step), more=step < STEPS - 1)
        done()


def read(storage: Storage, table: str) -> pa.Table:
    """The rows of a table as a reader has them: without files that a merged one replaces. Hidden files are ignored."""
    folder = f"{storage.root}/run_id=r/table={table}"
    infos = storage.filesystem.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
    there = {i.base_name: i.size for i in infos if i.base_name.startswith("rank=")}
    tables = {}
    for name in sorted(there):
        with storage.filesystem.open_input_file(f"{folder}/{name}") as stream:
            tables[name] = pq.read_table(stream)
    replaced = [file for one in tables.values() for file in replaced_of(one.schema.metadata)]
    for name in ignored(there, replaced):
        del tables[name]
    # As of one file: what it replaces is no part of the rows.
    bare = [one.replace_schema_metadata() for one in tables.values()]
    return pa.concat_tables(bare).sort_by("start_ns") if bare else arrow_schema(table).empty_table()


def names(storage: Storage) -> list[str]:
    infos = storage.filesystem.get_file_info(pafs.FileSelector(storage.root, recursive=True))
    return sorted(f"{Path(i.path).parent.name}/{i.base_name}" for i in infos if i.is_file)


@pytest.fixture(params=["", "local://"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A directory; by a URI it is opened as any other place that fsspec knows."""
    return f"{request.param}{tmp_path}"


def test_one_file_per_table_with_the_rows_of_the_parts(out: str) -> None:
    sink, storage = Sink(out, "r", 3), Storage(out)
    capture(sink)
    before = {table: read(storage, table) for table in TABLES}
    parts = [f"table={table}/rank=00003.part00{step}.parquet" for table in TABLES for step in range(STEPS)]
    assert names(storage) == parts
    sink.merge()
    assert names(storage) == [f"table={table}/rank=00003.parquet" for table in TABLES]
    for table in TABLES:
        assert read(storage, table).equals(before[table])
        assert before[table]["step"].to_pylist() == [row["step"] for step in range(STEPS) for row in rows(table, step)]
        with storage.reading(f"run_id=r/table={table}/rank=00003.parquet") as stream:
            file = pq.ParquetFile(stream)
            assert file.num_row_groups == STEPS, "one per part"
            assert b"vtrain.schema_version" in file.schema_arrow.metadata
            assert [part.name for part in replaced_of(file.schema_arrow.metadata)] == [
                f"rank=00003.part00{step}.parquet" for step in range(STEPS)
            ]
    sink.merge()
    assert len(names(storage)) == len(TABLES), "merged once"


def test_a_table_that_is_written_at_once_is_one_file_that_replaces_none(out: str) -> None:
    sink, storage = Sink(out, "r", 3), Storage(out)
    sink.write("steps", rows("steps", 0))
    sink.merge()
    assert names(storage) == ["table=steps/rank=00003.parquet"]
    with storage.reading("run_id=r/table=steps/rank=00003.parquet") as stream:
        assert replaced_of(pq.read_schema(stream).metadata) == ()


def test_a_part_after_which_none_came_is_a_whole_file_too(out: str) -> None:
    sink, storage = Sink(out, "r", 3), Storage(out)
    sink.write("steps", rows("steps", 0), more=True)
    before = read(storage, "steps")
    sink.merge()
    assert names(storage) == ["table=steps/rank=00003.parquet"]
    assert read(storage, "steps").equals(before)


def test_rows_are_merged_group_by_group(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in memory at once does not grow with the steps, nor with the rows of one."""
    monkeypatch.setattr("vtrain_plugin.capture.sink._ROWS_OF_A_GROUP", 2)
    sizes: list[int] = []
    write = pq.ParquetWriter.write_table

    def noted(self: pq.ParquetWriter, table: pa.Table, *arguments: Any, **options: Any) -> None:
        sizes.append(table.num_rows)
        write(self, table, *arguments, **options)

    sink, storage = Sink(out, "r", 3), Storage(out)
    capture(sink)
    before = read(storage, "spans")
    monkeypatch.setattr(pq.ParquetWriter, "write_table", noted)
    sink.merge()
    assert max(sizes) == 2
    assert sum(sizes) == sum(len(rows(table, step)) for table in TABLES for step in range(STEPS))
    assert read(storage, "spans").equals(before)


# All that a capture does with files, between which something may go wrong or the process end.
OPERATIONS = (
    (Storage, "store"),
    (Storage, "writing"),
    (Storage, "reading"),
    (Storage, "remove"),
    (pq.ParquetFile, "read_row_group"),
    (pq.ParquetWriter, "write_table"),
    (pq.ParquetWriter, "close"),
    (os, "fsync"),
    (os, "replace"),
    (FSSpecHandler, "open_output_stream"),
    (FSSpecHandler, "move"),
)


def before_operation(patch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Have `act` called before the operation of this number, counted from 0."""
    left = [number]

    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == -1:
                act()
            return original(*arguments, **options)

        return call

    for place, name in OPERATIONS:
        patch.setattr(place, name, wrapped(getattr(place, name)))


def refuse() -> None:
    raise OSError(5, "Input/output error")


def test_an_error_at_any_point_of_the_merging_leaves_every_row_once(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    number = 0
    while True:
        place = f"{out}/{number}"
        sink, storage = Sink(place, "r", 3), Storage(place)
        capture(sink)
        before = {table: read(storage, table) for table in TABLES}
        with monkeypatch.context() as patch:
            before_operation(patch, number, refuse)
            try:
                sink.merge()
                break
            except OSError as error:
                assert "Input/output" in str(error)
        assert {table: read(storage, table) for table in TABLES} == before, number
        assert not [name for name in names(storage) if name.endswith(".tmp")]
        number += 1
    assert number > 20
    assert len(names(storage)) == len(TABLES)


def test_a_process_killed_at_any_point_leaves_every_row_that_it_wrote_once(
    out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was written when it ended is there once, and of the write under way all or nothing."""
    number = 0
    while not _killed_at(number, f"{out}/{number}", monkeypatch):
        number += 1
    assert number > 30


def _killed_at(number: int, place: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Check what is left of a capture that is killed before an operation; True where it is over before that."""
    heard, said = os.pipe()
    child = os.fork()
    if not child:
        with monkeypatch.context() as patch:
            before_operation(patch, number, lambda: os.kill(os.getpid(), signal.SIGKILL))
            sink = Sink(place, "r", 3)
            capture(sink, lambda: os.write(said, b"."))
            sink.merge()
        os._exit(0)
    os.close(said)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    with open(heard, "rb") as stream:
        done = len(stream.read())
    storage = Storage(place)
    for table in TABLES:
        steps = sorted(set(read(storage, table)["step"].to_pylist()))
        assert steps in (list(range(done)), list(range(done + 1))), number
        expected = [row["start_ns"] for step in steps for row in rows(table, step)]
        assert read(storage, table)["start_ns"].to_pylist() == expected
    return status == 0


IN_PARTS = """
import runpy, sys
import vtrain_plugin.capture.output as output
output.LONG_S = 0.0
sys.argv = ["vtrain_plugin", *sys.argv[1:]]
runpy.run_module("vtrain_plugin", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_ranks_of_a_real_run_whose_steps_are_long_leave_one_file_per_table(tmp_path: Path) -> None:
    script, out = tmp_path / "in_parts.py", tmp_path / "profiles"
    script.write_text(IN_PARTS)
    options = ["--out", str(out), "--run-id", "r", "--warmup", "1", "--steps", "3"]
    run_python([str(script), *options, str(SCRIPT), *SMALL, "--train-iters", "8"], 2)
    merged = set()
    for table in ("runs", "ranks", "steps", "spans", "operators", "collectives"):
        files = sorted((out / f"run_id=r/table={table}").iterdir())
        assert [file.name for file in files] == ["rank=00000.parquet", "rank=00001.parquet"]
        for file in files:
            read_back = pq.read_table(file)
            if "step" in read_back.column_names:
                assert set(read_back["step"].to_pylist()) == {1, 2, 3}
            if replaced_of(read_back.schema.metadata):
                merged.add(table)
    assert merged == {"steps", "spans", "operators", "collectives"}
