"""Files that nobody's profiler writes: each is refused by itself, with a sentence, and all else works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simulator.synthetic import run_row, write_profile
from vtrain_plugin.capture.sink import Sink
from vtrain_schemas import TABLES
from vtrain_schemas.views import VIEW_ORDER
from vtrain_sim.catalog import Catalog
from vtrain_sim.commands import catalog as command

STEPS = "table=steps/rank=00000.parquet"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_profile(tmp_path / "p", "a")
    write_profile(tmp_path / "p", "b")
    return tmp_path / "p/run_id=a"


def rewrite(
    path: Path, target: Path | None = None, replaces: Any = None, statistics: bool = True, **columns: Any
) -> Path:
    """Write a file again with other values of columns, and with what it says that it replaces."""
    table = pq.read_table(path)
    for name, value in columns.items():
        kind = table.schema.field(name).type
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(name), pa.array([value] * table.num_rows, kind))
    metadata = dict(table.schema.metadata)
    if replaces is not None:
        metadata[b"vtrain.replaces"] = replaces if isinstance(replaces, bytes) else json.dumps(replaces).encode()
    pq.write_table(table.replace_schema_metadata(metadata), target or path, write_statistics=statistics)
    return target or path


def call(place: Path, *words: str) -> int:
    with pytest.raises(SystemExit) as left:
        command.main([*words, "-c", str(place / "c.duckdb")])
    return int(left.value.code or 0)


def problems_of(place: Path, run: Path) -> list[str]:
    """What `add` says; the other run is there, and every view works."""
    catalog = Catalog(place / "c.duckdb")
    found = catalog.add([str(run.parent)]).problems
    assert catalog.sql("SELECT count(*) AS n FROM steps WHERE run_id = 'b'").to_pylist() == [{"n": 1}]
    with catalog.reading() as connection:
        for name in (*TABLES, *VIEW_ORDER):
            connection.execute(f"SELECT * FROM {name}").fetchall()
    return [p.what for p in found]


def replacing(folder: Path, *names: str) -> None:
    """Make each of two or more files replace the next, and the last one the first."""
    for _ in range(3):
        for name, following in zip(names, [*names[1:], names[0]], strict=True):
            size = (folder / following).stat().st_size
            rewrite(folder / name, replaces=[{"name": following, "bytes": size}])


@pytest.mark.parametrize("others", [(), ("ranks=00000-00000.parquet",)])
def test_a_file_that_replaces_itself_hides_no_other(run: Path, tmp_path: Path, others: tuple[str, ...]) -> None:
    folder = run / "table=steps"
    for name in others:
        rewrite(run / STEPS, folder / name)
    replacing(folder, "rank=00000.parquet", *others)
    (what,) = problems_of(tmp_path, run)
    assert what.startswith("2 files, first " if others else str(run))
    assert "names the file itself, or another one that replaces it" in what
    before = {path: path.read_bytes() for path in run.rglob("*.parquet")}
    assert call(tmp_path, "compact") == 0
    assert {path: path.read_bytes() for path in run.rglob("*.parquet")} == before


def test_metadata_nested_without_end_is_a_problem_of_its_file(run: Path, tmp_path: Path) -> None:
    rewrite(run / STEPS, replaces=b"[" * 100_000)
    (what,) = problems_of(tmp_path, run)
    assert "is not a list of files with their sizes" in what


@pytest.mark.parametrize(
    ("column", "value"),
    [("start_ns", 2**63 - 1), ("start_ns", -(2**63)), ("duration_ns", 2**60), ("peak_allocated_bytes", -(2**60))],
)
@pytest.mark.parametrize("statistics", [True, False])
def test_numbers_that_overflow_are_a_problem_of_their_file(
    run: Path, tmp_path: Path, column: str, value: int, statistics: bool
) -> None:
    rewrite(run / STEPS, None, None, statistics, **{column: value})
    (what,) = problems_of(tmp_path, run)
    assert f"column {column!r} has {value}, which is out of range" in what


def test_a_world_beyond_all_clusters_is_not_counted_through(run: Path, tmp_path: Path) -> None:
    rewrite(run / "table=runs/rank=00000.parquet", world_size=2**31 - 1)
    (what,) = problems_of(tmp_path, run)
    assert "column 'world_size' has 2147483647" in what


def test_a_choice_of_ranks_that_is_none_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sink = Sink(str(tmp_path / "p"), "a", 0)
    sink.write("runs", [run_row("a", chosen_ranks="some")])
    assert call(tmp_path, "add", str(tmp_path / "p")) == 0
    capsys.readouterr()
    assert call(tmp_path, "check") == 1
    assert "a: chosen_ranks of its runs table: 'some' is no list of ranks" in capsys.readouterr().out
    assert call(tmp_path, "show", "a") == 0


def test_the_layout_of_a_run_without_tensor_parallel_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sink = Sink(str(tmp_path / "p"), "a", 0)
    sink.write("runs", [run_row("a", pipeline_model_parallel_size=4, virtual_pipeline_chunks=2)])
    assert call(tmp_path, "add", str(tmp_path / "p")) == 0
    capsys.readouterr()
    assert call(tmp_path, "ls") == 0
    assert "pp 4x2" in capsys.readouterr().out


def test_files_without_rows_are_merged(run: Path, tmp_path: Path) -> None:
    for rank in range(3):
        path = run / f"table=steps/rank={rank:05d}.parquet"
        pq.write_table(pq.read_table(run / STEPS).slice(0, 0), path)
    assert problems_of(tmp_path, run) == []
    assert call(tmp_path, "compact", "a") == 0
    assert [path.name for path in (run / "table=steps").iterdir()] == ["ranks=00000-00002.parquet"]
    assert problems_of(tmp_path, run) == []


def test_a_column_name_that_is_no_text_is_damage(run: Path, tmp_path: Path) -> None:
    assert problems_of(tmp_path, run) == []
    path = run / STEPS
    path.write_bytes(path.read_bytes().replace(b"duration_ns", b"dur\xd8tion_ns"))
    assert call(tmp_path, "check") == 1
    (what,) = problems_of(tmp_path, run)
    assert "damaged: " in what
