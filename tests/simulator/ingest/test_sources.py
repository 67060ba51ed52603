"""Where traces come from: files, archives, directories; how ranks become runs; what happens the second time."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.ingest.build import Kineto, nsight_report, training_step
from simulator.synthetic import write_profile
from vtrain_sim.catalog import Catalog
from vtrain_sim.commands.catalog import main
from vtrain_sim.errors import UserError
from vtrain_sim.ingest import ingest
from vtrain_sim.ingest.gunzip import Gunzip


def write(folder: Path, name: str, rank: int = 0, world: int = 2, **metadata: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    trace = Kineto(rank, world)
    training_step(trace)
    trace.metadata |= metadata
    return trace.write(folder / name)


def runs(result) -> dict[str, int]:
    return {r.run_id: r.ranks for r in result.runs}


def test_the_ranks_of_one_world_in_one_folder_are_one_run(tmp_path: Path) -> None:
    for rank in (0, 1):
        write(tmp_path / "job", f"host_{rank + 17}.171.pt.trace.json.gz", rank)
    result = ingest([str(tmp_path / "job")], tmp_path / "out")
    assert runs(result) == {"host": 2}
    assert sorted(p.name for p in (tmp_path / "out/run_id=host/table=kernels").iterdir()) == [
        "rank=00000.parquet",
        "rank=00001.parquet",
    ]


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_archives_of_ranks(tmp_path: Path, kind: str) -> None:
    members = {
        f"d/worker{rank}_step_12.json": write(tmp_path / "x", f"{rank}.json", rank).read_bytes() for rank in (0, 1)
    }
    path = tmp_path / f"all.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    assert runs(ingest([str(path)], tmp_path / "out")) == {"all": 2}


def test_ranks_from_file_names_where_the_trace_does_not_say(tmp_path: Path) -> None:
    for rank in (3, 4):
        write(tmp_path / "job", f"rank{rank}.json", distributedInfo=None)
    result = ingest([str(tmp_path / "job")], tmp_path / "out")
    assert runs(result) == {"job": 2}
    assert {p.name for p in (tmp_path / "out/run_id=job/table=ranks").iterdir()} == {
        "rank=00003.parquet",
        "rank=00004.parquet",
    }


def test_reports_of_several_nodes_are_one_run(tmp_path: Path) -> None:
    for node in (0, 1):
        (tmp_path / "job").mkdir(exist_ok=True)
        nsight_report(tmp_path / "job" / f"node{node}.sqlite")
    result = ingest([str(tmp_path / "job")], tmp_path / "out")
    assert runs(result) == {"job": 4}
    assert len(list((tmp_path / "out/run_id=job/table=kernels").iterdir())) == 4
    # What is said of a whole report is counted once for it.
    marks = next(n for n in result.runs[0].notes if n.reason.startswith("NVTX marks"))
    assert marks.count == 2 * 4


def test_two_files_of_one_rank_are_two_runs(tmp_path: Path) -> None:
    for name in ("monday.json", "tuesday.json"):
        write(tmp_path, name, 0)
    result = ingest([str(tmp_path)], tmp_path / "out")
    assert runs(result) == {"monday": 1, "tuesday": 1}
    assert len(result.notices) == 1
    assert "more than one of rank 0" in result.notices[0]


def test_other_files_in_a_folder_are_passed_over_and_named(tmp_path: Path) -> None:
    write(tmp_path, "trace.json", 0, 1)
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    nsight_report(tmp_path / "report.sqlite")
    result = ingest([str(tmp_path)], tmp_path / "out")
    assert runs(result) == {"trace": 1, "report": 2}
    assert len(result.notices) == 1
    assert "config.json" in result.notices[0]


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("a.json", b"[[1, 2], [3", "holds no event"),
        ("a.json", b"nothing", "is not a trace"),
        ("r.nsys-rep", b"x", "nsys export"),
        ("a.zip", b"PK\x05\x06" + b"\x00" * 18, "without traces"),
        ("a.json.gz", b"\x1f\x8b\x08broken", "is not a trace"),
    ],
)
def test_files_that_are_no_traces(tmp_path: Path, name: str, content: bytes, word: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=word):
        ingest([str(path)], tmp_path / "out")
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_a_cut_archive_gives_what_can_be_unpacked(tmp_path: Path) -> None:
    path = write(tmp_path, "trace.json.gz", 0, 1)
    trace = Kineto()
    for step in range(200):
        training_step(trace, at=2000.0 * step, step=step)
    whole = trace.write(path).read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    result = ingest([str(path)], tmp_path / "out")
    reasons = {n.reason: n.count for n in result.runs[0].notes}
    assert 0 < reasons["kernels, copies and fills"] < 1200
    assert "cannot be read to its end" in reasons


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_gunzip_gives_all_members_and_what_is_before_the_damage(size: int) -> None:
    data = gzip.compress(b"abc" * 1000) + gzip.compress(b"xyz" * 1000)

    def read(packed: bytes) -> tuple[bytes, str]:
        stream, parts = Gunzip(io.BytesIO(packed)), []
        try:
            while part := stream.read(size):
                parts.append(part)
        except (EOFError, zlib.error) as error:
            return b"".join(parts), type(error).__name__
        return b"".join(parts), ""

    assert read(data) == (b"abc" * 1000 + b"xyz" * 1000, "")
    assert read(data + b"\x00" * 20) == (b"abc" * 1000 + b"xyz" * 1000, "")
    whole, problem = read(data[:-12])
    assert whole.startswith(b"abc" * 1000 + b"xyz")
    assert problem == "EOFError"
    assert read(b"\x1f\x8bnot gzip")[1] == "error"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["json.gz", "zip", "tar", "tar.gz"]),
    at=st.floats(0, 1),
    noise=st.binary(min_size=1, max_size=30),
    cut=st.booleans(),
)
def test_any_damage_to_an_archive_is_a_report_or_a_sentence(
    tmp_path: Path, kind: str, at: float, noise: bytes, cut: bool
) -> None:
    trace = Kineto()
    training_step(trace)
    data = trace.text().encode()
    path = tmp_path / f"f.{kind}"
    if kind == "json.gz":
        path.write_bytes(gzip.compress(data))
    elif kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for rank in range(2):
                archive.writestr(f"rank{rank}.json", data)
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as tar:
            for rank in range(2):
                info = tarfile.TarInfo(f"rank{rank}.json")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    content = path.read_bytes()
    place = int(at * len(content))
    path.write_bytes(content[:place] if cut else content[:place] + noise + content[place + len(noise) :])
    out = tmp_path / f"fuzz-{kind}"
    try:
        assert ingest([str(path)], out).runs
    except UserError as error:
        assert str(path) in str(error)
    assert not out.exists() or not list(out.glob(".*"))


def test_reading_twice_changes_nothing_and_a_changed_file_is_read_again(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "c.duckdb")
    path = write(tmp_path, "trace.json", 0, 1)
    first = catalog.add([str(path)])
    assert (first.ingested[0].unchanged, first.files_added > 0) == (False, True)
    again = catalog.add([str(path)])
    assert (again.ingested[0].unchanged, again.files_added) == (True, 0)
    trace = Kineto()
    training_step(trace)
    training_step(trace, 2000, 6)
    trace.write(path)
    changed = catalog.add([str(path)])
    assert not changed.ingested[0].unchanged
    assert catalog.sql("SELECT count(*) AS n FROM steps").to_pylist() == [{"n": 2}]
    assert not [p for p in (tmp_path / "c-traces").iterdir() if p.name.startswith(".")]


def test_asking_otherwise_reads_again_from_wherever_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "trace.json", 0, 1, distributedInfo=None, deviceProperties=[])
    out = tmp_path / "out"
    ingest([str(path)], out)
    monkeypatch.chdir(tmp_path)
    assert ingest(["trace.json"], out).runs[0].unchanged
    assert not ingest(["trace.json"], out, rank=3).runs[0].unchanged
    assert [p.name for p in (out / "run_id=trace/table=ranks").iterdir()] == ["rank=00003.parquet"]
    assert not ingest(["trace.json"], out, device="A100").runs[0].unchanged


def test_a_run_whose_tables_were_merged_is_read_again_only_where_a_trace_changed(tmp_path: Path) -> None:
    catalog, count = Catalog(tmp_path / "c.duckdb"), "SELECT rank, step FROM steps ORDER BY ALL"
    for rank in (0, 1):
        write(tmp_path / "t", f"rank{rank}.json", rank)
    (run,) = catalog.add([str(tmp_path / "t")]).runs
    before = catalog.sql(count).to_pylist()
    compacted = catalog.compact(run)
    assert compacted.files_after < compacted.files_before
    again = catalog.add([str(tmp_path / "t")])
    assert (again.ingested[0].unchanged, again.files_added) == (True, 0)
    assert catalog.sql(count).to_pylist() == before
    trace = Kineto(1, 2)
    training_step(trace)
    training_step(trace, 2000, 6)
    trace.write(tmp_path / "t/rank1.json")
    assert not catalog.add([str(tmp_path / "t")]).ingested[0].unchanged
    assert catalog.sql(count).num_rows == len(before) + 1
    # What a merged file holds may be lost like any other.
    catalog.compact(run)
    next((tmp_path / "c-traces").glob("*/table=kernels/ranks=*.parquet")).unlink()
    assert not catalog.add([str(tmp_path / "t")]).ingested[0].unchanged
    assert not any("gone" in problem.what for problem in catalog.check())


def test_another_file_of_the_same_name_needs_a_name_of_its_own(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([str(write(tmp_path / "a", "trace.json", 0, 1))])
    other = str(write(tmp_path / "b", "trace.json", 0, 1))
    with pytest.raises(UserError, match="--run-id"):
        catalog.add([other])
    assert catalog.add([other], run_id="second").runs == ("second",)


def test_a_captured_run_of_the_same_name_is_not_mixed_with(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "c.duckdb")
    write_profile(tmp_path / "profiles", "trace")
    catalog.add([str(tmp_path / "profiles")])
    path = str(write(tmp_path / "a", "trace.json", 0, 1))
    with pytest.raises(UserError, match=r"there is a run .trace. in the catalog already, from .*profiles/run_id=trace"):
        catalog.add([path])
    assert catalog.add([path], run_id="mine").runs == ("mine",)


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        write(tmp_path / "t", name, 0)
    catalog = Catalog(tmp_path / "c.duckdb")
    with pytest.raises(UserError, match="holds 2"):
        catalog.add([str(tmp_path / "t")], run_id="one")
    with pytest.raises(UserError, match="--run-id: run id 'a/b' is not usable"):
        catalog.add([str(tmp_path / "t" / "a.json")], run_id="a/b")
    with pytest.raises(UserError, match="--rank says the rank of one trace"):
        catalog.add([str(tmp_path / "t")], rank=3)
    with pytest.raises(UserError, match=r"--rank is 2: it must be from 0 to 1, as .*a.json is of a world of 2 ranks"):
        catalog.add([str(tmp_path / "t" / "a.json")], rank=2)
    with pytest.raises(UserError, match="says that it ran on NVIDIA A100"):
        catalog.add([str(tmp_path / "t" / "a.json")], device="H100")
    with pytest.raises(UserError, match="are for traces"):
        catalog.add([str(tmp_path)], run_id="x") if (tmp_path / "run_id=x").mkdir() is None else None


def test_several_processes_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtrain_sim.ingest.profiles._WORTH_PROCESSES", 0)
    for rank in (0, 1):
        write(tmp_path / "job", f"rank{rank}.json", rank)
    seen: list[tuple[int, int]] = []
    one = ingest([str(tmp_path / "job")], tmp_path / "one", progress=lambda done, total: seen.append((done, total)))
    two = ingest([str(tmp_path / "job")], tmp_path / "two", processes=2)
    assert one.runs == two.runs
    assert seen[-1][0] == seen[-1][1] > 0


def test_a_run_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "trace.json", 0, 1)
    ingest([str(path)], tmp_path / "out")
    before = sorted(p.name for p in (tmp_path / "out").rglob("*"))
    path.write_text(json.dumps({"traceEvents": []}))

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vtrain_sim.ingest.table_file.pq.ParquetWriter", fail)
    with pytest.raises(UserError, match="No space left"):
        ingest([str(path)], tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").rglob("*")) == before


BAD = {
    "cut": '{"traceEvents": [',
    "list": "[1, 2, 3]",
    "words": '["a", {"b": 1}]',
    "null": '{"traceEvents": null}',
    "odd": '{"traceEvents": [{"ph": "X", "cat": "kernel", "name": [], "args": 7}]}',
    "empty": "",
    "text": "no trace",
}


@pytest.mark.parametrize("bad", BAD)
def test_one_bad_file_costs_itself(tmp_path: Path, bad: str) -> None:
    for name in ("a.json", "z.json"):
        write(tmp_path / "t", name, 0, 1)
    (tmp_path / "t" / "m.json").write_text(BAD[bad])
    report = Catalog(tmp_path / "c.duckdb").add([str(tmp_path / "t")])
    assert {"a", "z"} <= set(report.runs)
    assert "m" in report.runs or any("m.json" in notice for notice in report.notices)
    assert not list((tmp_path / "c-traces").glob(".*"))
    each = [str(tmp_path / "t" / name) for name in ("m.json", "a.json", "z.json")]
    assert {"a", "z"} <= set(Catalog(tmp_path / "d.duckdb").add(each, out=tmp_path / "d").runs)


@pytest.mark.parametrize("processes", [1, 2])
def test_one_bad_rank_costs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    monkeypatch.setattr("vtrain_sim.ingest.profiles._WORTH_PROCESSES", 0)
    for rank in (0, 2):
        write(tmp_path / "job", f"rank{rank}.json", rank, 3)
    head = '{"distributedInfo": {"rank": 1, "world_size": 3}, "traceEvents": ['
    (tmp_path / "job" / "rank1.json").write_text(head)
    catalog = Catalog(tmp_path / "c.duckdb")
    for unchanged in (False, True):
        report = catalog.add([str(tmp_path / "job")], processes=processes)
        assert [(run.run_id, run.ranks, run.unchanged) for run in report.ingested] == [("job", 2, unchanged)]
        (notice,) = report.notices
        assert "rank1.json" in notice
    assert any("1 of 3 ranks are missing: 1" in problem.what for problem in catalog.check())


def test_what_no_reader_foresees_costs_one_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some of its tables were written, too."""
    from vtrain_sim.ingest import profiles

    for rank in (0, 1):
        write(tmp_path / "job", f"rank{rank}.json", rank)
    tables_of = profiles.tables_of

    def failing(trace, run_id):  # type: ignore[no-untyped-def]
        for number, piece in enumerate(tables_of(trace, run_id)):
            if trace.rank == 1 and number == 2:
                raise KeyError("odd")
            yield piece

    monkeypatch.setattr(profiles, "tables_of", failing)
    result = ingest([str(tmp_path / "job")], tmp_path / "out")
    assert result.notices == [f"{tmp_path / 'job' / 'rank1.json'} cannot be read: KeyError: 'odd'"]
    assert {path.name for path in (tmp_path / "out").rglob("*.parquet")} == {"rank=00000.parquet"}


def test_a_directory_of_bad_files_alone_is_refused(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text('{"traceEvents": [')
    with pytest.raises(UserError, match=r"none of the 2 traces can be read; the first: .*a\.json is not a trace"):
        ingest([str(tmp_path)], tmp_path / "out")


def test_why_no_trace_of_a_directory_can_be_read_is_said(tmp_path: Path) -> None:
    for rank in (0, 1):
        write(tmp_path / "t", f"rank{rank}.json", rank, baseTimeNanoseconds=-1)
    with pytest.raises(UserError, match=r"can be read: .*rank0\.json counts its times from .*-1.* \(and 1 more\)"):
        ingest([str(tmp_path / "t")], tmp_path / "out")


@pytest.mark.parametrize("lost", ["operators", "steps", "ranks", "runs", "all", "cut"])
def test_tables_that_are_gone_are_made_again(tmp_path: Path, lost: str) -> None:
    catalog = Catalog(tmp_path / "c.duckdb")
    path = write(tmp_path, "trace.json", 0, 1)
    catalog.add([str(path)])
    run = tmp_path / "c-traces/run_id=trace"
    names = sorted(p.relative_to(run) for p in run.rglob("*.parquet"))
    rows = catalog.sql("SELECT count(*) AS n FROM operators").to_pylist()
    if lost == "all":
        shutil.rmtree(run)
    elif lost == "cut":
        victim = run / "table=steps/rank=00000.parquet"
        victim.write_bytes(victim.read_bytes()[:-9])
    else:
        shutil.rmtree(run / f"table={lost}")
    assert not catalog.add([str(path)]).ingested[0].unchanged
    assert sorted(p.relative_to(run) for p in run.rglob("*.parquet")) == names
    assert catalog.sql("SELECT count(*) AS n FROM operators").to_pylist() == rows
    assert catalog.add([str(path)]).ingested[0].unchanged


@pytest.mark.parametrize("rank", ["-1", "-5", "16777216", "2147483647", "2147483648", "99999999999999999999"])
@pytest.mark.parametrize("kind", ["kineto", "nsys"])
def test_a_rank_that_no_process_has_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rank: str, kind: str
) -> None:
    place = tmp_path / "job.sqlite"
    if kind == "nsys":
        nsight_report(place)
    else:
        trace = Kineto()
        del trace.metadata["distributedInfo"]
        place = trace.write(tmp_path / "job.json")
    with pytest.raises(SystemExit) as end:
        main(["add", str(place), "--rank", rank, "--catalog", str(tmp_path / "c.duckdb")])
    assert end.value.code == 2
    sentence = f"vtrain-catalog: --rank is {rank}: it must be from 0 to 16777215, as no world is larger"
    assert capsys.readouterr().err.strip() == sentence
